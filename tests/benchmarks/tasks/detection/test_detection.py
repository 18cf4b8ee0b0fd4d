"""Detection end to end on planted squares: Detectron2 learns, the encoder does not move, controls and rows are right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.plan import source_of
from benchmarks.scores.metrics import METRICS
from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.detection import TASK
from mlip.errors import UserError
from mlip.paths import StudyPaths
from tests.benchmarks.tasks import dense_world as world

torch.set_num_threads(1)
QUICK = {"iterations": 70, "channels": 32, "levels": 3, "anchor_sizes": [0.15, 0.3, 0.6], "lr": 6e-3}


def scores(job, table: pd.DataFrame) -> dict[str, float]:
    return {m.title: METRICS[m.key].value(table, m.args) for m in TASK.metrics(job.protocol, job.source)}


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_detector_learns_planted_squares_and_leaves_the_encoder_alone(kind, tmp_path: Path, monkeypatch) -> None:
    config = world.study(tmp_path)
    world.plant(config)
    encoder = world.encoder(config, kind)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    world.give_encoder(monkeypatch, encoder)
    job = world.job(TASK, config, **QUICK)
    table = TASK.run(job)

    assert scores(job, table)["AP50"] > 0.7, "a frozen random encoder suffices to find bright squares"
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert list(table.columns) == [
        "image_id",
        "patient_id",
        "fraction",
        "draw",
        "label",
        "n_truth",
        "scores",
        "matched",
        "iterations",
        "stopped",
        "seen",
        "labelled",
    ]
    assert len(table) == 24 and set(table.n_truth) == {0, 1} and set(table.label) == {"Pneumonia"}
    assert (table.scores.map(len) == table.matched.map(len)).all()
    results = json.loads((job.output.parent / "seed0.f100.d0.json").read_text(encoding="utf-8"))
    assert len(results) == table.scores.map(len).sum()
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}
    again = TASK.run(world.job(TASK, config, **QUICK | {"iterations": 3}))
    twice = TASK.run(world.job(TASK, config, **QUICK | {"iterations": 3}))
    pd.testing.assert_frame_equal(again, twice)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_detector_is_detectron2_and_cached_maps_equal_images(kind, tmp_path: Path) -> None:
    from benchmarks.tasks.detection.backbone import EncoderBackbone, SimpleFeaturePyramid
    from benchmarks.tasks.detection.model import Detector, build_retinanet
    from benchmarks.tasks.shared.dense.features import FrozenFeatures, MethodMaps
    from mlip.data.pixels import to_tensor

    from detectron2.modeling import Backbone  # isort: skip  (importable after the compatibility module)
    from detectron2.modeling.backbone.fpn import FPN
    from detectron2.modeling.meta_arch.retinanet import RetinaNet

    config = world.study(tmp_path)
    protocol = read_protocol("detection", "strict")
    maps = MethodMaps(world.method(world.encoder(config, kind)), world.SIZE, "here", protocol.levels)
    net = build_retinanet(maps, protocol, 2)
    assert isinstance(net, RetinaNet) and isinstance(net.backbone.bottom_up, EncoderBackbone)
    assert isinstance(net.backbone, FPN if kind == "cnn" else SimpleFeaturePyramid) and isinstance(
        net.backbone, Backbone
    )
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert trained and not any("encoder" in n for n in net.state_dict())
    net.train()
    assert not any(m.training for m in maps.method.modules()), "training the head leaves the method in eval mode"

    images = np.random.default_rng(0).integers(0, 255, (2, world.SIZE, world.SIZE)).astype(np.uint8)
    net.eval()
    net.test_score_thresh = 0.0
    whole = net([{"image": x} for x in to_tensor(images)])
    features = FrozenFeatures(maps, images, np.arange(2), torch.device("cpu"))
    found = Detector(net, maps, world.SIZE).detect(features.batch(np.arange(2)))
    for a, b in zip(whole, found, strict=True):
        np.testing.assert_allclose(a["instances"].pred_boxes.tensor.detach().numpy(), b.corners, atol=1e-3)
        np.testing.assert_allclose(a["instances"].scores.detach().numpy(), b.scores, atol=1e-5)


def test_two_categories_make_two_rows_an_image(tmp_path: Path, monkeypatch) -> None:
    config = world.study(tmp_path, reader="covid_chestxray")
    world.plant(config, categories=("Right Lung", "Left Lung"))
    world.give_encoder(monkeypatch, world.encoder(config, "cnn"))
    table = TASK.run(world.job(TASK, config, **QUICK | {"iterations": 2}))
    # In this reader a film without boxes was not annotated: the 12 empty ones are left out, not taken for negatives.
    assert len(table) == 12 * 2 and table.image_id.nunique() == 12
    assert (table.groupby("image_id").n_truth.sum() == 1).all()
    assert table.label.tolist()[:2] == ["Right Lung", "Left Lung"]


def test_prior_box_knows_the_place_but_not_the_image(tmp_path: Path) -> None:
    config = world.study(tmp_path)
    world.plant(config)
    job = world.job(TASK, config, method="prior-box")
    table = TASK.run_control(job)
    assert len(set(table.scores.map(tuple))) == 1, "every image gets the same boxes"
    assert len(table.scores[0]) == job.protocol.prior_boxes
    assert sum(table.scores[0]) == pytest.approx(0.5), "half of the films have one box"
    assert 0 < scores(job, table)["AP50"] < 0.7


def test_prior_boxes_of_one_place_are_that_place() -> None:
    from benchmarks.tasks.detection.boxes import ImageBoxes
    from benchmarks.tasks.detection.prior import prior_boxes

    box = ImageBoxes(np.array([[10.0, 20, 30, 5]]), np.array([1]))
    empty = ImageBoxes(np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
    prior = prior_boxes([box, box, empty, empty], 2, 4, seed=0)
    assert (
        prior.boxes.tolist() == [[10, 20, 30, 5]]
        and prior.categories.tolist() == [1]
        and prior.scores.tolist() == [0.5]
    )
    assert len(prior_boxes([empty], 2, 4, seed=0)) == 0


def test_best_val_keeps_the_best_weights(tmp_path: Path, monkeypatch) -> None:
    config = world.study(tmp_path)
    world.plant(config)
    world.give_encoder(monkeypatch, world.encoder(config, "cnn"))
    budget = {k: v for k, v in QUICK.items() if k not in ("lr", "iterations")}
    job = world.job(TASK, config, protocol="mgca-2022", epochs=2, head_convs=1, score_threshold=0.01, **budget)
    titles = list(scores(job, TASK.run(job)))
    assert titles == ["mAP (lineage's skips)", "mAP", "AP50"]


def test_check_names_what_does_not_fit(tmp_path: Path) -> None:
    protocol = read_protocol("detection", "strict")
    TASK.check(protocol, source_of(world.study(tmp_path), "squares"), world.study(tmp_path))
    with pytest.raises(UserError, match="has no boxes"):
        TASK.check(
            protocol, source_of(world.study(tmp_path, reader="siim"), "squares"), world.study(tmp_path, reader="siim")
        )
    silent = protocol.model_copy(update={"unlabelled_if_empty": {}})
    with pytest.raises(UserError, match="true negative"):
        TASK.check(silent, source_of(world.study(tmp_path), "squares"), world.study(tmp_path))


def test_films_whose_boxes_are_not_believed_are_left_out(tmp_path: Path) -> None:
    config = world.study(tmp_path)
    world.plant(config)
    path = StudyPaths(config).data("squares") / "records.parquet"
    records = pd.read_parquet(path)
    records.loc[[0, 2], "boxes_known"] = False  # two of the empty films
    records.to_parquet(path)
    table = TASK.run_control(world.job(TASK, config, method="prior-box"))
    assert len(table) == 22
    assert sum(table.scores[0]) == pytest.approx(12 / 22), "share of the training films that are known"


@pytest.mark.parametrize("box", [[20.0, 20, 0, 0], [5, 40, 25, 0], [30, 30, -5, 9], [5, 5, float("nan"), 9]], ids=str)
def test_a_box_without_area_is_refused_when_the_truth_is_read(box: list[float]) -> None:
    from benchmarks.tasks.detection.boxes import read_truth

    records = pd.DataFrame({"boxes": [[[4.0, 6, 10, 20]], [box]], "box_categories": [["a"], ["a"]]})
    with pytest.raises(UserError, match=r"records\.parquet: a box has no area or is not finite.* Fix: delete"):
        read_truth(records, ["a"])


def test_a_box_that_overlaps_nothing_never_reaches_the_matcher(tmp_path: Path) -> None:
    """Of such a box every anchor beside no box is the best match: all of them would be foreground."""
    from benchmarks.tasks.detection.boxes import ImageBoxes
    from benchmarks.tasks.detection.model import Detector, build_retinanet
    from benchmarks.tasks.shared.dense.features import FrozenFeatures

    config = world.study(tmp_path)
    protocol = read_protocol("detection", "strict")
    from benchmarks.tasks.shared.dense.features import MethodMaps

    maps = MethodMaps(world.method(world.encoder(config, "cnn")), world.SIZE, "here", protocol.levels)
    detector = Detector(build_retinanet(maps, protocol, 1), maps, world.SIZE)
    images = np.random.default_rng(0).integers(0, 255, (1, world.SIZE, world.SIZE)).astype(np.uint8)
    batch = FrozenFeatures(maps, images, np.arange(1), torch.device("cpu")).batch(np.arange(1))
    good, side = [4.0, 6, 10, 20], float(world.SIZE)
    assert torch.isfinite(detector.loss(batch, detector.match(ImageBoxes(np.array([good]), np.zeros(1, np.int64)))))
    for box in (
        [20.0, 20, 0, 0],
        [5, 40, 1e-14, 9],
        [30, 30, -5, 9],
        [side, 5, 9, 9],
        [-9, 5, 9, 9],
        [5, 5, np.nan, 9],
    ):
        with pytest.raises(ValueError, match="a true box overlaps no part of the image"):
            detector.match(ImageBoxes(np.array([good, box]), np.zeros(2, np.int64)))


@pytest.mark.parametrize("box_loss", ["giou", "smooth_l1"])
@pytest.mark.parametrize("levels", [1, 3])
def test_losses_of_cached_matches_are_detectron2s(box_loss: str, levels: int, tmp_path: Path) -> None:
    from benchmarks.tasks.detection.boxes import ImageBoxes
    from benchmarks.tasks.detection.model import AnchorTargets, Detector, build_retinanet
    from benchmarks.tasks.shared.dense.features import MethodMaps

    from detectron2.structures import Boxes, Instances  # isort: skip
    from detectron2.utils.events import EventStorage

    change = {"box_loss": box_loss, "anchor_sizes": [0.1, 0.2, 0.4][:levels]}
    protocol = read_protocol("detection", "strict").model_copy(update=change)
    maps = MethodMaps(world.method(world.encoder(world.study(tmp_path), "cnn")), world.SIZE, "here", protocol.levels)
    net = build_retinanet(maps, protocol, 2)
    detector = Detector(net, maps, world.SIZE)
    batch = maps(torch.randn(3, 3, world.SIZE, world.SIZE, generator=torch.Generator().manual_seed(0)))
    truth = [
        ImageBoxes(np.array([[4.0, 6, 20, 25], [30, 30, 14, 12]]), np.array([0, 1])),
        ImageBoxes(np.zeros((0, 4)), np.zeros(0, np.int64)),
        ImageBoxes(np.array([[20.0, 10, 30, 40]]), np.array([1])),
    ]
    ours = detector.loss(batch, AnchorTargets.join([detector.match(image) for image in truth]))
    del net.loss_normalizer  # an average over batches, which begins anew
    instances = [
        Instances((64, 64), gt_boxes=Boxes(torch.tensor(t.corners).float()), gt_classes=torch.tensor(t.categories))
        for t in truth
    ]
    features = detector._levels(batch)
    with EventStorage():
        theirs = net.forward_training(None, features, net.head(features), instances)
    assert ours.item() == pytest.approx(sum(v.item() for v in theirs.values()), rel=1e-5)


def test_only_the_finest_map_is_searched_and_all_of_the_pyramid_speaks(tmp_path: Path) -> None:
    from benchmarks.tasks.detection.model import AnchorTargets, Detector, build_retinanet
    from benchmarks.tasks.shared.dense.features import MethodMaps

    from benchmarks.tasks.detection.boxes import ImageBoxes  # isort: skip

    protocol = read_protocol("detection", "strict")
    for kind in ("cnn", "vit"):
        maps = MethodMaps(world.method(world.encoder(world.study(tmp_path), kind)), world.SIZE, "here", protocol.levels)
        net = build_retinanet(maps, protocol, 1)
        detector = Detector(net, maps, world.SIZE)
        assert [len(level) for level in detector.anchors] == [16 * 16 * len(protocol.anchor_octaves)]
        target = AnchorTargets.join([detector.match(ImageBoxes(np.array([[4.0, 6, 20, 25]]), np.zeros(1, np.int64)))])
        detector.loss(maps(torch.randn(1, 3, world.SIZE, world.SIZE)), target).backward()
        idle = [name for name, weight in net.named_parameters() if weight.grad is None]
        assert not idle, "every weight is trained"
