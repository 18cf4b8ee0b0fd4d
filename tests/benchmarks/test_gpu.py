"""The GPU benchmark, as far as it goes without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment

from benchmarks import gpu
from mlip.study import ImageEncoderConfig, TextEncoderConfig

TINY = gpu.Sizes(
    cnn=ImageEncoderConfig(name="resnet", args={"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}),
    vit=ImageEncoderConfig(name="vit", args={"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}),
    text=TextEncoderConfig(layers=2, dim=32, heads=2, max_tokens=32),
    vocabulary=400, side=64, batch=4, films=16, warm=1, steps=2,
)  # fmt: skip


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2 and "no GPU" in capsys.readouterr().err


def test_its_parts_measure_a_training(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed", plugins=[LightningEnvironment()])
    method = gpu.build("cvpr24", TINY).train()
    make = gpu.batches(method, TINY, tmp_path)
    assert gpu.flops(method, make(0), fabric) > 1.5 * gpu.flops(method, make(0).rows(0, 2), fabric) > 0
    before = [p.clone() for p in method.parameters()]
    found = gpu.measure(method, make, TINY, fabric)
    assert found.seconds > 0 and found.loading > 0
    assert any(not torch.equal(old, p) for old, p in zip(before, method.parameters(), strict=True))
