"""`frozen: false`: the encoder is trained with the head, films are moved with what is known of them, a kill changes nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

import benchmarks.tasks.detection.model as detection_model
from benchmarks.scores.metrics import METRICS
from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.detection import TASK as DETECTION
from benchmarks.tasks.detection.boxes import ImageBoxes, move
from benchmarks.tasks.segmentation import TASK as SEGMENTATION
from benchmarks.tasks.segmentation.model import Segmenter
from benchmarks.tasks.shared.augment import Augmentation, augment_images, augment_with_masks
from benchmarks.tasks.shared.dense.features import MethodMaps
from mlip.contract import Method
from mlip.errors import UserError
from tests.benchmarks.tasks import dense_world as world

torch.set_num_threads(1)
DETECTOR = {"channels": 16, "levels": 3, "anchor_sizes": [0.15, 0.3, 0.6], "lr": 2e-3, "balanced": [], "iterations": 6}
DECODER = {"lr": 2e-3, "balanced": [], "iterations": 6}


def loads(monkeypatch, method: Method) -> list[Method]:
    """Jobs load copies of this method; the list of them."""
    loaded: list[Method] = []

    def load(study, entry, seed):
        loaded.append(copy.deepcopy(method).eval())
        return loaded[-1]

    monkeypatch.setattr("mlip.pretraining.checkpoints.load_method", load)
    return loaded


def job(task, config, protocol: str = "fine-tuned", made_by: str = "", **budget: Any):
    made = world.job(task, config, protocol=protocol, **budget)
    object.__setattr__(made, "made_by", made_by)
    return made


def value(task, done, table: pd.DataFrame, title: str) -> float:
    spec = next(s for s in task.metrics(done.protocol, done.source) if s.title == title)
    return METRICS[spec.key].value(table, spec.args)


@pytest.mark.parametrize(
    ("task", "kind", "settings"),
    [
        (DETECTION, "cnn", DETECTOR),
        (DETECTION, "vit", DETECTOR),
        (SEGMENTATION, "cnn", DECODER),
        (SEGMENTATION, "vit", DECODER),
    ],
)
def test_all_of_the_encoder_and_nothing_else_of_the_method_is_trained(
    task, kind, settings, tmp_path, monkeypatch
) -> None:
    config = world.study(tmp_path)
    world.plant(config)
    method = world.method(world.encoder(config, kind))
    loaded = loads(monkeypatch, method)
    table = task.run(job(task, config, **settings))
    before = method.state_dict()
    moved = {k for k, v in loaded[0].state_dict().items() if not torch.equal(before[k], v)}
    # A pyramid or grid does not see the last norm's or the class token's every weight; blocks and stages it does.
    inner = {
        k
        for k, v in method.named_parameters()
        if k.startswith("image_encoder.") and v.ndim > 1 and "fc" not in k.split(".")[2]
    }
    assert inner <= moved and all(k.startswith("image_encoder.") for k in moved)
    pd.testing.assert_frame_equal(table, task.run(job(task, config, **settings)), check_exact=True)
    frozen = {k: v for k, v in settings.items() if k != "lr"}
    task.run(job(task, config, "strict", **frozen))
    assert all(torch.equal(before[k], v) for k, v in loaded[-1].state_dict().items())


def test_a_trained_detector_finds_squares(tmp_path: Path, monkeypatch) -> None:
    config = world.study(tmp_path)
    world.plant(config)
    loads(monkeypatch, world.method(world.encoder(config, "cnn")))
    done = job(
        DETECTION,
        config,
        **DETECTOR | {"iterations": 70, "lr": 6e-3, "channels": 32, "layer_decay": 1.0, "validate_every": 20},
    )
    assert value(DETECTION, done, DETECTION.run(done), "AP50") > 0.7


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_the_lineages_upernet_outlines_squares(kind, tmp_path: Path, monkeypatch) -> None:
    config = world.study(tmp_path)
    world.plant(config)
    loads(monkeypatch, world.method(world.encoder(config, kind)))
    quick = {"upernet": 32, "iterations": 50, "lr": 4e-3, "warmup": 0.05, "validate_every": 25}
    done = job(SEGMENTATION, config, "maco-2024", **quick)
    assert value(SEGMENTATION, done, SEGMENTATION.run(done), "Dice (images with the finding)") > 0.6


def test_upernet_reads_four_maps_of_a_plain_vit(tmp_path: Path) -> None:
    config = world.study(tmp_path)
    protocol = read_protocol("segmentation", "maco-2024").model_copy(update={"upernet": 16})
    method = world.method(world.encoder(config, "vit"))
    maps = MethodMaps(method, world.SIZE, "here", frozen=False, taps=protocol.taps)
    images = torch.randn(2, 3, world.SIZE, world.SIZE)
    seen = maps(images)
    assert [tuple(m.shape) for m in seen] == [(2, 48, 8, 8)] * 4
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[2], seen[3]), "blocks 0, 0, 0 and 1 of two"
    blocks: dict[int, torch.Tensor] = {}
    model = method.image_encoder.model
    hooks = [b.register_forward_hook(lambda m, x, y, k=k: blocks.__setitem__(k, y)) for k, b in enumerate(model.blocks)]
    with torch.no_grad():
        model.forward_features(images)
    [h.remove() for h in hooks]
    grid = blocks[1][:, model.num_prefix_tokens :].transpose(1, 2).unflatten(2, (8, 8))
    torch.testing.assert_close(seen[3].detach(), grid)
    segmenter = Segmenter(maps, protocol, world.SIZE)
    assert segmenter(seen).shape == segmenter.aside(seen).shape == (2, 1, world.SIZE, world.SIZE)
    sides = [r(m).shape[-1] for r, m in zip(segmenter.decoder.rescale, seen, strict=True)]
    assert sides == [32, 16, 8, 4]
    assert Segmenter(maps, read_protocol("segmentation", "mgca-2022"), world.SIZE).aside(seen) is None

    class Own(type(method)):  # type: ignore[misc]
        def feature_maps(self, images):
            return super().feature_maps(images)

    method.__class__ = Own
    with pytest.raises(UserError, match="maps inside a ViT"):
        MethodMaps(method, world.SIZE, "here", taps=[3, 5, 7, 11])


def test_a_killed_detection_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch) -> None:
    config = world.study(tmp_path)
    config.pretrain.checkpoint_seconds = 1e-9
    world.plant(config)
    loads(monkeypatch, world.method(world.encoder(config, "cnn")))
    settings = DETECTOR | {
        "average": 0.5,
        "selection": "last",
    }  # the first reading may be the best and hide a difference
    whole = DETECTION.run(job(DETECTION, config, **settings))
    seen: list[int] = []
    original = detection_model.Detector.loss

    def killed(self, maps, targets):
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return original(self, maps, targets)

    monkeypatch.setattr(detection_model.Detector, "loss", killed)
    again = job(DETECTION, config, made_by="one", **settings)
    with pytest.raises(KeyboardInterrupt):
        DETECTION.run(again)
    pd.testing.assert_frame_equal(whole, DETECTION.run(again), check_exact=True)
    assert len(seen) == 5 + 2


def test_only_training_films_are_moved(tmp_path: Path, monkeypatch) -> None:
    """At a rate that moves no weight, a detector without batch norms finds the same with and without augmentation."""
    config = world.study(tmp_path)
    world.plant(config)
    loads(monkeypatch, world.method(world.encoder(config, "vit")))
    still = DETECTOR | {"lr": 1e-12, "iterations": 2, "score_threshold": 0.0, "augmentation": None, "selection": "last"}
    plain = DETECTION.run(job(DETECTION, config, **still))
    moved = DETECTION.run(job(DETECTION, config, **still | {"augmentation": {"shift": 0.4}}))
    np.testing.assert_allclose(np.concatenate(list(plain.scores)), np.concatenate(list(moved.scores)), atol=1e-6)
    fast = still | {"lr": 1e-3}
    plain = DETECTION.run(job(DETECTION, config, **fast))
    moved = DETECTION.run(job(DETECTION, config, **fast | {"augmentation": {"shift": 0.4}}))
    assert not np.allclose(plain.scores[0][:5], moved.scores[0][:5], atol=1e-5)


def test_masks_and_boxes_move_with_their_films() -> None:
    films, masks = np.full((6, 40, 40), 20, np.uint8), np.zeros((6, 40, 40), np.uint8)
    films[:, 10:22, 14:30], masks[:, 10:22, 14:30] = 220, 1
    box = ImageBoxes(np.array([[14.0, 10, 16, 12]]), np.array([0]))
    everything = Augmentation(shift=0.3, scale=0.3, flip=0.5)
    torch.manual_seed(0)
    seen, moved = augment_with_masks(films, masks, everything)
    torch.manual_seed(0)
    same, boxes = move(films, [box] * 6, everything)
    torch.manual_seed(0)
    assert np.array_equal(seen, same) and np.array_equal(seen, augment_images(films, everything, 40))
    assert len({m.tobytes() for m in moved}) > 3, "each film its own"
    for film, mask, found in zip(seen, moved, boxes, strict=True):
        assert ((film > 120) == (mask > 0)).mean() > 0.97
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(found.corners[0], edges, atol=1.6)
    far = Augmentation(shift=0.9)
    torch.manual_seed(1)
    _, boxes = move(films, [box] * 6, far)
    assert any(len(b) == 0 for b in boxes), "a box that left the film is gone"
    assert all((b.boxes[:, 2:] > 0).all() and (b.corners <= 40).all() and (b.corners >= 0).all() for b in boxes)
    turned = move(films, [ImageBoxes(np.zeros((0, 4)), np.zeros(0, np.int64))] * 6, everything)[1]
    assert all(len(b) == 0 for b in turned)


def test_what_only_a_trained_encoder_has_is_refused_for_a_frozen_one() -> None:
    tuned = read_protocol("detection", "fine-tuned")
    with pytest.raises(ValidationError, match="need frozen: false"):
        type(tuned).model_validate({**tuned.model_dump(), "frozen": True})
    lineage = read_protocol("segmentation", "maco-2024")
    recipe = {f: lineage.recipe(f, 8000) for f in (1, 10, 100)}
    assert [r.lr for r in recipe.values()] == [5e-6, 2e-5, 2e-5]
    assert [r.warmup for r in recipe.values()] == [100, 100, 1500]
    assert [r.spacing for r in recipe.values()] == [50, 50, 500] and recipe[1].schedule == "linear"
    assert [lineage.length(f, 8000) for f in (1, 10, 100)] == [1000, 5000, 160000]
