"""The controls are what they say: the study's start, a calibrated random network, and the film itself made small."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlip.errors import UserError
from mlip.methods import entries
from mlip.pretraining import calibration
from mlip.study import ImageEncoderConfig, MethodsConfig, Study, load_study
from tests.conftest import ROOT
from tests.methods import build
from tests.ours import our_methods


def twin() -> Study:
    return load_study(ROOT / "config" / "twin.yaml")


def test_who_starts_from_what_and_how_often_it_is_evaluated() -> None:
    study = twin()
    ours = set(our_methods().values())
    rows = {name: entry for name, entry in entries(study)[0].items() if entry.folder in ours}
    weights = {name: entry.image_config(study).has_weights for name, entry in rows.items()}
    assert weights == {name: not name.startswith("random") for name in rows}
    once = {name for name, entry in rows.items() if entry.seeds(study) == [0]}
    assert once == {"imagenet", "imagenet-vit", "thumbnail"}
    assert all(entry.seeds(study) == study.pretrain.seeds for name, entry in rows.items() if name not in once)
    assert [name for name, entry in rows.items() if entry.calibrated] == ["random"]


def test_an_imagenet_row_needs_weights() -> None:
    study = twin()
    bare = study.model_copy(
        update={"encoders": study.encoders.model_copy(update={"cnn": ImageEncoderConfig(name="resnet")})}
    )
    with pytest.raises(UserError, match=r"encoders\.cnn: imagenet .* must be pretrained"):
        entries(bare.model_copy(update={"methods": MethodsConfig(include=["imagenet"])}))
    assert "imagenet" not in entries(bare.model_copy(update={"methods": MethodsConfig()}))[0]


def test_a_thumbnail_is_the_mean_grey_of_its_cells() -> None:
    method = build("thumbnail", "cnn", params={"side": 4}).eval()
    images = torch.rand(2, 1, 48, 48).expand(-1, 3, -1, -1)
    features = method.encode_image(images)
    cells = images[:, 0].unflatten(1, (4, 12)).unflatten(3, (4, 12)).mean(dim=(2, 4))
    torch.testing.assert_close(features.pooled, cells.flatten(1))
    torch.testing.assert_close(features.grid[..., 0], cells)


def test_calibration_gives_a_random_network_features_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("random", "cnn")
    films = np.random.default_rng(0).integers(0, 255, (96, 48, 48), dtype=np.uint8)

    class Store:
        images = films

    monkeypatch.setattr(calibration, "open_store", lambda _: Store())
    monkeypatch.setattr(calibration, "read_splits", lambda _: None)
    monkeypatch.setattr(calibration, "part_rows", lambda *_: np.arange(96))
    encoder = method.image_encoder.eval()
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    weights = {k: v.clone() for k, v in encoder.state_dict().items() if "running" not in k and "tracked" not in k}
    study = load_study(ROOT / "config" / "smoke.yaml")
    calibration.calibrate(encoder, study)
    assert norms and all((m.running_mean != 0).any() for m in norms)
    assert all(torch.equal(encoder.state_dict()[k], v) for k, v in weights.items())  # nothing else moves
    first: list[torch.Tensor] = []
    handle = norms[-1].register_forward_hook(lambda m, a, out: first.append(out))
    with torch.no_grad():
        encoder.eval()(calibration.to_tensor(films[:64]))
    handle.remove()
    assert 0.2 < first[0].std() < 2
