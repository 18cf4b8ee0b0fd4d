"""Exported encoders load in one line and give the features of the study's encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from mlip.encoders.exported import load_exported, pooled_apart, write_exported
from mlip.encoders.image import ImageEncoder
from mlip.errors import UserError
from mlip.study import ImageEncoderConfig

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}
TIMM = {
    "own-resnet": ("cnn", 48, {"name": "resnet", "args": SMALL}),
    "own-vit": ("vit", 48, {"name": "vit", "args": {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}}),
    "efficientnet": ("cnn", 64, {"name": "tf_efficientnet_lite0"}),
    "another-side": ("cnn", 48, {"name": "resnet10t.c3_in1k", "input_size": 64}),
    "vit-by-name": ("vit", 48, {"name": "vit_tiny_patch16_224", "args": {"depth": 2}}),
    "convnext": ("cnn", 64, {"name": "convnext_atto"}),
}
STEM = {
    "name": "vit", "args": {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "stem": {"name": "tf_efficientnet_lite0", "stages": 5},
}  # fmt: skip
OURS = {"stem": ("vit", 64, STEM), "last-stage": ("cnn", 64, {"name": "tf_efficientnet_lite0", "pooled": "last_stage"})}


def trained(kind: str, size: int, config: dict[str, object]) -> ImageEncoder:
    """An encoder whose every tensor differs from its start: batch norms have seen images."""
    torch.manual_seed(3)
    encoder = ImageEncoder(ImageEncoderConfig.model_validate(config), kind, size)  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
        encoder.train()(torch.randn(4, 3, size, size))
    return encoder.eval()


@pytest.mark.parametrize("name", TIMM)
def test_timm_loads_it_in_one_line(name: str, tmp_path: Path) -> None:
    encoder = trained(*TIMM[name])
    write_exported(encoder, TIMM[name][1], tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert pooled_apart(encoder, model) < 1e-6
    assert pooled_apart(encoder, timm.create_model(f"local-dir:{tmp_path}").eval()) > 1e-2  # without the weights
    seen = timm.data.resolve_model_data_config(model)
    assert tuple(seen["input_size"]) == (3, encoder.input_size, encoder.input_size)
    of_timm = timm.get_pretrained_cfg(str(model.pretrained_cfg["architecture"]))
    assert of_timm.tag or of_timm.license  # timm's own weights have these; these are others
    assert not model.pretrained_cfg.get("tag") and not model.pretrained_cfg.get("license")
    assert list(seen["mean"]) == list(seen["std"]) == [0.5] * 3 and seen["interpolation"] == "bilinear"


@pytest.mark.parametrize("name", [*TIMM, *OURS])
def test_our_loader_gives_the_encoder_back(name: str, tmp_path: Path) -> None:
    kind, size, config = {**TIMM, **OURS}[name]
    encoder = trained(kind, size, config)
    write_exported(encoder, size, tmp_path)
    again = load_exported(tmp_path)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        one, two = encoder(images), again(images)
    assert torch.equal(one.pooled, two.pooled) and torch.equal(one.grid, two.grid)
    state = load_file(tmp_path / "model.safetensors")
    last = max(name for name in state if name.endswith("weight") and state[name].ndim > 1)
    save_file({**state, last: state[last].flip(0)}, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert not torch.equal(load_exported(tmp_path)(images).pooled, one.pooled)  # what is read is the file


@pytest.mark.parametrize("name", ["own-vit", "vit-by-name"])
def test_a_vit_may_be_measured_by_its_patches(name: str, tmp_path: Path) -> None:
    """As ISBI24's: the mean of the patch tokens after the last norm."""
    encoder = trained(*TIMM[name])
    write_exported(encoder, TIMM[name][1], tmp_path, "patches")
    measured, images = load_exported(tmp_path), torch.randn(2, 3, encoder.input_size, encoder.input_size)
    with torch.no_grad():
        assert torch.equal(measured(images).pooled, encoder(images).grid.mean(dim=(1, 2)))
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert pooled_apart(measured, model) < 1e-6 < 1e-2 < pooled_apart(encoder, model)


@pytest.mark.parametrize("name", OURS)
def test_what_timm_cannot_build_is_not_said_to_be_timms(name: str, tmp_path: Path) -> None:
    write_exported(trained(*OURS[name]), 64, tmp_path)
    assert "architecture" not in json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    with pytest.raises(KeyError, match="architecture"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json.*cannot be read"):
        load_exported(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}', encoding="utf-8")
    with pytest.raises(UserError, match="has no part `mlip`"):
        load_exported(tmp_path)
    write_exported(trained(*TIMM["own-resnet"]), 48, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("conv1.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="1 missing"):
        load_exported(tmp_path)
