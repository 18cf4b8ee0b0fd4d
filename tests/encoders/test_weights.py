"""Weights files of image encoders: every wrapper that is read, and every damage as one line that names file and fix."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mlip.encoders.image import ImageEncoder
from mlip.errors import UserError
from mlip.study import ImageEncoderConfig

ARGS = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}
CNN = ImageEncoderConfig(name="resnet", args=ARGS)
VIT = ImageEncoderConfig(name="vit", args={"patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2})
NAME = "layer4.0.conv1.weight"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return {k: v.contiguous() for k, v in ImageEncoder(CNN, "cnn", 64).model.state_dict().items()}


def load(path: Path, config: ImageEncoderConfig = CNN, meta: bool = False) -> ImageEncoder:
    with torch.device("meta" if meta else "cpu"):
        return ImageEncoder(config.model_copy(update={"pretrained": str(path)}), "vit" if config is VIT else "cnn", 64)


WRAPPED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "plain": lambda s: s,
    "model": lambda s: {"model": s, "args": argparse.Namespace(lr=1e-4)},  # as facebookresearch/mae
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "module": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "classifier": lambda s: {**s, "fc.weight": torch.ones(14, 32), "fc.bias": torch.ones(14)},
    "old": lambda s: {k: v for k, v in s.items() if "num_batches_tracked" not in k},  # before torch 0.4.1
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers_are_taken_off(how: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(WRAPPED[how](state), tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth").model.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state.items())
    assert load(tmp_path / "w.pth", meta=True).model.conv1.weight.is_meta, "the same check without values"


def test_safetensors(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({**state, "fc.weight": torch.ones(2, 2)}, path)
    assert torch.equal(load(path).model.state_dict()[NAME], state[NAME])
    load(path, meta=True)


def torch_file(content: Callable[[dict[str, Any]], Any]) -> Callable[[Path, dict[str, Any]], None]:
    return lambda path, state: torch.save(content(state), path)


def cut(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:4000])


DAMAGES: dict[str, tuple[Callable[[Path, dict[str, Any]], None], str]] = {
    "lacks a layer": (
        torch_file(lambda s: {k: v for k, v in s.items() if "layer4" not in k}),
        # three convolutions, and four tensors of each of three batch norms
        r"tensors: 15 missing \(layer4\.0\.bn1\.bias, layer4\.0\.bn1\.running_mean, layer4\.0\.bn1\.running_var, \.\.\.\)",
    ),
    "holds more": (
        torch_file(lambda s: {**s, "layer5.weight": torch.ones(1), "decoder.bias": torch.ones(1)}),
        r"tensors: 2 unexpected \(decoder\.bias, layer5\.weight\)",
    ),
    "other names": (torch_file(lambda s: {f"encoder.{k}": v for k, v in s.items()}), "missing .*; .* unexpected"),
    "other shape": (
        torch_file(lambda s: {**s, NAME: torch.ones(32, 24, 1, 1)}),
        r"1 of another shape \(layer4\.0\.conv1\.weight \[32, 24, 1, 1\] instead of \[32, 24, 3, 3\]\)",
    ),
    "empty": (lambda path, s: path.write_bytes(b""), "is empty"),  # type: ignore[dict-item,return-value]
    "git-lfs": (
        lambda path, s: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", encoding="utf-8"),  # type: ignore[dict-item,return-value]
        "is a text",
    ),
    "web page": (
        lambda path, s: path.write_text("<!DOCTYPE html>\n<title>Préparation — téléchargement</title>" * 9, encoding="utf-8"),  # type: ignore[dict-item,return-value]
        "is a text",
    ),
    "random bytes": (lambda path, s: path.write_bytes(bytes(range(256)) * 9), "cannot be read as weights"),  # type: ignore[dict-item,return-value]
    "cut": (cut, "cannot be read as weights"),
    "a list": (torch_file(lambda s: [1, 2]), "no dictionary of tensors"),
    "a list of tensors": (torch_file(lambda s: list(s.values())), "no dictionary of tensors"),
    "one tensor": (torch_file(lambda s: torch.ones(3)), "no dictionary of tensors"),
    "a whole model": (torch_file(lambda s: nn.Sequential(nn.Linear(2, 2))), "Unsupported globals: torch.nn"),
    "numpy inside": (torch_file(lambda s: {"model": s, "best": np.float64(0.9)}), "Unsupported globals: .*numpy"),
    "no tensors": (torch_file(lambda s: {"model": {"a": {"b": 1}}, "epoch": 3}), "no tensor by name, only a"),
    "nothing in it": (torch_file(lambda s: {}), "only an empty dictionary"),
    "under an unknown key": (torch_file(lambda s: {"net": s, "epoch": 3}), "no tensor by name, only net, epoch"),
}  # fmt: skip


@pytest.mark.parametrize("meta", [False, True], ids=["run", "check"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damages(damage: str, meta: bool, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    write, problem = DAMAGES[damage]
    path = tmp_path / "weights.pth"
    write(path, state)
    with pytest.raises(UserError, match=problem) as refused:
        load(path, meta=meta)
    text = str(refused.value)
    assert str(path) in text and "encoders.cnn.pretrained" in text and len(text.splitlines()) == 1


@pytest.mark.parametrize("meta", [False, True], ids=["run", "check"])
def test_damaged_safetensors_and_missing_files(meta: bool, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*no such weights file.*encoders.cnn.pretrained"):
        load(path, meta=meta)
    path.write_bytes(b"\x10" * 30)
    with pytest.raises(UserError, match="cannot be read as weights"):
        load(path, meta=meta)
    save_file({k: v for k, v in state.items() if k != NAME} | {"more": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"1 missing \(layer4.0.conv1.weight\); 1 unexpected \(more\)"):
        load(path, meta=meta)


def test_positions_of_another_image_size(tmp_path: Path) -> None:
    torch.save({"model": ImageEncoder(VIT, "vit", 96).model.state_dict()}, tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"1 of another shape \(pos_embed \[1, 37, 16\] instead of \[1, 17, 16\]\)"):
        load(tmp_path / "vit.pth", VIT)


def test_only_the_classifier_may_be_left_over(tmp_path: Path) -> None:
    """In CLIP's ResNet and ConvNeXt, ``head.`` is more than the classifier."""
    config = ImageEncoderConfig(name="convnext_atto")
    state = ImageEncoder(config, "cnn", 64).model.state_dict()
    torch.save({**state, "head.fc.weight": torch.ones(2, 2)}, tmp_path / "w.pth")
    load(tmp_path / "w.pth", config, meta=True)
    torch.save({k: v for k, v in state.items() if k != "head.norm.weight"}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"1 missing \(head\.norm\.weight\)"):
        load(tmp_path / "w.pth", config, meta=True)


@pytest.mark.parametrize("meta", [False, True], ids=["run", "check"])
def test_an_encoder_that_ends_with_its_stages_takes_whole_files_and_its_own(meta: bool, tmp_path: Path) -> None:
    whole = ImageEncoderConfig(name="tf_efficientnet_lite0")
    cut = whole.model_copy(update={"pooled": "last_stage"})
    for name, config in (("whole", whole), ("cut", cut)):
        torch.save(ImageEncoder(config, "cnn", 64).model.state_dict(), tmp_path / name)
        load(tmp_path / name, cut, meta)
    with pytest.raises(UserError, match=r"5 missing \(bn2\.bias"):  # the counter may be missing
        load(tmp_path / "cut", whole, meta)


def test_hub_weights_that_do_not_exist_are_refused() -> None:
    for config in (CNN, ImageEncoderConfig(name="vit_base_patch16_plus_240")):
        kind = "cnn" if config is CNN else "vit"
        with pytest.raises(UserError, match=r"no weights of .* on timm's hub"):
            ImageEncoder(config.model_copy(update={"pretrained": "hub"}), kind, 240, hub=False)  # type: ignore[arg-type]
