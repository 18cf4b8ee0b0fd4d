"""Weights out of a package: the very file that was checked, in timm's model, and what they compute."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from mlip.encoders import packaged
from mlip.encoders.image import ImageEncoder
from mlip.encoders.packaged import PACKAGED, packaged_path
from mlip.errors import UserError
from mlip.study import ImageEncoderConfig

NAME = "packaged:efficientnet-lite0"
CONFIG = ImageEncoderConfig(name="tf_efficientnet_lite0", pretrained=NAME)


def test_the_weights_are_those_of_the_file() -> None:
    known, path = packaged_path(NAME, "here")
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = ImageEncoder(CONFIG, "cnn", 64).model.state_dict()
    assert known.licence == "Apache-2.0" and known.trained_on == "ImageNet-1k"
    for theirs, ours in (
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight"),
        ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
        ("_bn1.running_var", "bn2.running_var"),
    ):
        assert torch.equal(state[theirs], model[ours])


def test_an_encoder_that_ends_with_its_stages_has_the_same_weights() -> None:
    whole = ImageEncoder(CONFIG, "cnn", 64).model.state_dict()
    cut = ImageEncoder(CONFIG.model_copy(update={"pooled": "last_stage"}), "cnn", 64).model.state_dict()
    assert {name.split(".")[0] for name in set(whole) - set(cut)} == {"conv_head", "bn2"}
    assert set(cut) < set(whole) and all(torch.equal(cut[name], whole[name]) for name in cut)


def test_the_features_are_of_a_trained_network() -> None:
    """On smooth patterns its classifier's own logits tell patterns apart; random weights of the same shapes do not."""
    torch.manual_seed(0)
    waves = torch.stack(
        [torch.sin(torch.arange(64.0) * f).expand(3, 64, 64) for f in (0.2, 0.8)] * 4
    )  # two kinds, four of each
    noisy = waves + 0.3 * torch.randn(8, 3, 64, 64)

    def gap(encoder: ImageEncoder) -> float:
        pooled = torch.nn.functional.normalize(encoder.eval()(noisy).pooled, dim=1)
        same = pooled @ pooled.T
        kind = torch.arange(8) % 2
        return float(same[kind[:, None] == kind].mean() - same[kind[:, None] != kind].mean())

    with torch.no_grad():
        assert gap(ImageEncoder(CONFIG, "cnn", 64)) > 5 * gap(ImageEncoder(CONFIG.without_weights(), "cnn", 64))


def test_another_file_another_model_and_no_package_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="is of tf_efficientnet_lite0, not of 'tf_efficientnet_lite1'"):
        ImageEncoder(CONFIG.model_copy(update={"name": "tf_efficientnet_lite1"}), "cnn", 64)
    known = PACKAGED["efficientnet-lite0"]
    for change, problem in (({"sha256": "0" * 64}, "sha256"), ({"package": "no-such-package"}, "not installed")):
        monkeypatch.setitem(packaged.PACKAGED, "efficientnet-lite0", dataclasses.replace(known, **change))
        with pytest.raises(UserError, match=problem):
            ImageEncoder(CONFIG, "cnn", 64)
