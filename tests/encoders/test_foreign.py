"""Checkpoints of others: unwrapped, stripped on request, and loaded whole or not at all."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet50

from mlip.encoders.foreign import load_whole, read_foreign, renamed
from mlip.encoders.image import ImageEncoder, normalised
from mlip.errors import UserError
from mlip.methods import method_class, method_folders
from mlip.study import NORMALISATIONS, ImageEncoderConfig, WeightsConfig

KEY = "methods.variants.mine.weights"
RESNET = {"architecture": "resnet18", "normalise": "imagenet"}


def model(name: str = "resnet18") -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5)


def saved(path: Path, content: Any, **keys: Any) -> WeightsConfig:
    torch.save(content, path)
    return WeightsConfig(file=path, **keys)


def loaded(weights: WeightsConfig, name: str = "resnet18") -> nn.Module:
    empty = timm.create_model(name, num_classes=0)
    load_whole(empty, read_foreign(weights, KEY), weights.path, KEY, classifier=True)
    return empty


def under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "keys"),
    [
        (lambda s: s, {}),
        (lambda s: {"state_dict": s, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, {}),
        (lambda s: {"model": under("module.", s)}, {}),
        (lambda s: {"model": {n: v * 0 for n, v in s.items()}, "model_ema": s}, {}),
        (lambda s: {"state_dict": under("module.encoder_q.", s)}, {"prefix": "module.encoder_q."}),
        (lambda s: {"state_dict": under("encoder_q.", s) | {"queue": torch.zeros(3)}}, {"prefix": "encoder_q."}),
        (lambda s: {**s, "projector.0.weight": torch.zeros(3)}, {"heads": ["projector"]}),
        (lambda s: {n: v for n, v in s.items() if "num_batches" not in n}, {}),
    ],
)
def test_the_same_encoder_in_every_wrapping(tmp_path: Path, wrap: Any, keys: dict[str, Any]) -> None:
    state = model().state_dict()
    found = loaded(saved(tmp_path / "w.pth", wrap(state), **keys)).state_dict()
    assert all(torch.equal(found[n], state[n]) for n in found if "num_batches" not in n) and len(found) > 100


def test_torchvisions_names_are_timms(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = resnet50().eval()
    ours = loaded(saved(tmp_path / "r50.pth", theirs.state_dict()), "resnet50").eval()
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("change", "keys", "words"),
    [
        (lambda s: s.pop("layer2.0.conv1.weight"), {}, r"1 missing \(layer2\.0\.conv1\.weight\)"),
        (lambda s: s.update(extra=torch.zeros(2)), {}, r"1 unexpected \(extra\)"),
        (
            lambda s: s.update({"bn1.bias": torch.zeros(2)}),
            {},
            r"1 of another shape \(bn1\.bias \[2\] instead of \[64\]\)",
        ),
        (lambda s: None, {"prefix": "encoder."}, r"no tensor under 'encoder\.', only conv1\.weight.*weights\.prefix"),
        (lambda s: None, {"heads": ["proj"]}, r"no tensor that begins with 'proj'.*weights\.heads"),
    ],
)
def test_nothing_is_loaded_in_part(tmp_path: Path, change: Any, keys: dict[str, Any], words: str) -> None:
    state = model().state_dict()
    change(state)
    empty = timm.create_model("resnet18", num_classes=0)
    before = {n: v.clone() for n, v in empty.state_dict().items()}
    weights = saved(tmp_path / "w.pth", state, **keys)
    with pytest.raises(UserError, match=words):
        load_whole(empty, read_foreign(weights, KEY), weights.path, KEY, classifier=True)
    assert all(torch.equal(before[n], v) for n, v in empty.state_dict().items())


def test_a_prefix_that_would_fit_is_named(tmp_path: Path) -> None:
    weights = saved(tmp_path / "w.pth", under("model.encoder.", model().state_dict()))
    with pytest.raises(UserError, match=re.escape(f"its names stand under 'model.encoder.': set {KEY}.prefix")):
        loaded(weights)


class Foreign:
    """Stands for a class of someone else's training code."""


def test_a_pickle_that_runs_code_is_refused_and_says_how_to_convert(tmp_path: Path) -> None:
    weights = saved(tmp_path / "w.ckpt", {"state_dict": model().state_dict(), "hyper_parameters": Foreign()})
    with pytest.raises(
        UserError, match=r"holds a tests\.encoders\.test_foreign\.Foreign\. Fix: if you trust.*torch\.save"
    ):
        read_foreign(weights, KEY)


def test_the_first_rule_that_fits_renames() -> None:
    state = {"a.x": torch.zeros(1), "b.y": torch.ones(1), "c": torch.ones(1)}
    found = renamed(state, [(r"a\.", "model."), (r"b\.", None)])
    assert list(found) == ["model.x", "c"]


def test_a_row_sees_films_in_its_grey_values_and_size_on_every_way() -> None:
    torch.manual_seed(0)
    config = ImageEncoderConfig(name="resnet18", input_size=96)
    own = ImageEncoder(config, "cnn", 64, grey=NORMALISATIONS["imagenet"]).eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wanted = ((images + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(normalised(images, NORMALISATIONS["imagenet"]), wanted)
    torch.testing.assert_close(normalised(images, NORMALISATIONS["half"]), images)
    assert own.map_side(64) == 96 and [m.shape[-1] for m in own.stages(images)] == [24, 12, 6, 3]
    with torch.no_grad():
        large = nn.functional.interpolate(wanted, size=96, mode="bilinear", align_corners=False)
        torch.testing.assert_close(own(images).pooled, own.model(large))
        torch.testing.assert_close(own.stages(images)[3], own.model.forward_features(large))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"normalise": "half"}, "does not say architecture"),
        ({"architecture": "resnet18"}, "does not say normalise"),
        ({**RESNET, "architecture": "resnet19"}, r"weights: timm knows no model 'resnet19'"),
        ({**RESNET, "architecture": "vit_tiny_patch16_224"}, "is not a cnn.*encoder: vit"),
        ({**RESNET, "architecture": "resnet34"}, "missing"),
    ],
)
def test_what_a_row_must_say_is_asked_before_anything_runs(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    weights = saved(tmp_path / "w.pth", model().state_dict(), **keys)
    with pytest.raises(UserError, match=words):
        method_class(method_folders()["weights"]).check_weights(weights, "cnn", 64, KEY)
