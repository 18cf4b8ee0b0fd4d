"""Segmentation end to end on planted squares: SMP's decoders learn, the encoder does not move, controls are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.plan import source_of
from benchmarks.scores.metrics import METRICS
from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.segmentation import TASK
from benchmarks.tasks.segmentation.masks import read_masks
from benchmarks.tasks.segmentation.task import DRAWN
from mlip.data.store import open_store
from mlip.errors import UserError
from tests.benchmarks.tasks import dense_world as world

torch.set_num_threads(1)
QUICK = {"iterations": 50, "batch_size": 8, "lr": 4e-3, "pup_channels": [32, 32, 16]}
POSITIVES, LINEAGE = "Dice (images with the finding)", "Dice (empty = 1 if empty)"


def scores(job, table: pd.DataFrame) -> dict[str, float]:
    return {m.title: METRICS[m.key].value(table, m.args) for m in TASK.metrics(job.protocol, job.source)}


@pytest.mark.parametrize(("kind", "goal"), [("cnn", 0.75), ("vit", 0.6)])
def test_decoder_learns_planted_squares_and_leaves_the_encoder_alone(kind, goal, tmp_path: Path, monkeypatch) -> None:
    config = world.study(tmp_path)
    world.plant(config, unknown_masks=2)
    encoder = world.encoder(config, kind)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    world.give_encoder(monkeypatch, encoder)
    job = world.job(TASK, config, **QUICK)
    table = TASK.run(job)

    assert scores(job, table)[POSITIVES] > goal, "a frozen random encoder suffices to outline bright squares"
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert list(table.columns) == [
        *("image_id", "patient_id", "fraction", "draw", "tp", "predicted", "truth", "on_true", "on_other"),
        *("iterations", "stopped", "seen", "labelled"),
    ]
    assert len(table) == 22, "films without a known mask are left out"
    kept, rows = read_masks(job.output, 100, 0), table.set_index("image_id")
    assert 0 < len(kept) == min(DRAWN, (table.truth > 0).sum()), "films with the finding are kept to be looked at"
    store = open_store(job.paths.data(job.dataset))
    place = store.records.reset_index().set_index("image_id")["index"]
    for image, mask in kept.items():
        true = store.masks[store.records["mask_row"].iloc[place[image]]] > 0
        found = [(mask & true).sum(), mask.sum(), true.sum()]
        assert found == rows.loc[image, ["tp", "predicted", "truth"]].tolist(), (
            "the mask that the numbers are made with"
        )
    assert (table.tp <= table[["predicted", "truth"]].min(axis=1)).all() and (table.truth > 0).sum() == 11
    again = TASK.run(world.job(TASK, config, **QUICK | {"iterations": 3}))
    twice = TASK.run(world.job(TASK, config, **QUICK | {"iterations": 3}))
    pd.testing.assert_frame_equal(again, twice)


def test_decoders_are_smp() -> None:
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    from benchmarks.tasks.segmentation.model import ProgressiveUpsampling, Segmenter
    from benchmarks.tasks.shared.dense.features import MethodMaps

    config = world.study(Path("unused"))
    protocol = read_protocol("segmentation", "strict")
    for kind, expected in (("cnn", UnetDecoder), ("vit", ProgressiveUpsampling)):
        maps = MethodMaps(world.method(world.encoder(config, kind)), world.SIZE, "here")
        model = Segmenter(maps, protocol, world.SIZE)
        assert any(isinstance(m, expected) for m in model.modules())
        images = torch.zeros(2, 3, world.SIZE, world.SIZE)
        assert model(maps(images)).shape == (2, 1, world.SIZE, world.SIZE)
        assert model.decoder(maps(images)).shape[-1] == world.SIZE // 4, "of one resolution for a pyramid and a grid"
        lineage = Segmenter(maps, read_protocol("segmentation", "mgca-2022"), world.SIZE)
        side = lineage.decoder(maps(images)).shape[-1]
        assert side == (world.SIZE // 2 if kind == "cnn" else world.SIZE * 2), "four blocks, four doublings"
        assert not any("encoder" in name for name in model.state_dict())


def test_mgca_loss_is_ten_focal_minus_log_dice() -> None:
    from benchmarks.tasks.segmentation.losses import FocalDice

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 8, 8, generator=generator)
    truth = (torch.rand(3, 1, 8, 8, generator=generator) > 0.7).float()
    p = torch.sigmoid(logits)
    right = torch.where(truth > 0, p, 1 - p)
    focal = (-((1 - right) ** 2) * right.log()).mean()
    dice = (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    criterion = FocalDice(read_protocol("segmentation", "mgca-2022"))
    assert criterion(logits, truth).item() == pytest.approx((10 * focal - dice.log()).item(), rel=1e-5)
    nothing = torch.zeros_like(truth)
    assert criterion(logits, nothing) > criterion(logits - 5, nothing), (
        "false pixels cost also where there is no finding"
    )
    ours = FocalDice(read_protocol("segmentation", "strict"))
    assert ours(logits, truth).item() == pytest.approx((10 * focal + 1 - dice).item(), rel=1e-5)


def test_empty_mask_shows_what_the_lineages_rule_gives_away(tmp_path: Path) -> None:
    config = world.study(tmp_path)
    world.plant(config)
    job = world.job(TASK, config, method="empty-mask")
    table = TASK.run_control(job)
    found = scores(job, table)
    share = table.truth.sum() / (table.truth > 0).sum() / world.SIZE**2
    assert found.pop("Pixel AP") == pytest.approx(share), (
        "the share of true pixels is what scores that say nothing reach"
    )
    assert found == {POSITIVES: 0.0, LINEAGE: 0.5}
    lineage = world.job(TASK, config, protocol="mgca-2022")
    assert list(scores(lineage, table)) == [LINEAGE, POSITIVES, "Pixel AP"]


def test_mean_mask_beats_nothing_and_is_the_same_everywhere(tmp_path: Path) -> None:
    config = world.study(tmp_path)
    world.plant(config)
    job = world.job(TASK, config, method="mean-mask")
    table = TASK.run_control(job)
    assert len(set(table.predicted)) == 1 and table.predicted[0] > 0
    assert 0.1 < scores(job, table)[POSITIVES] < 0.7


def test_mean_mask_takes_the_level_with_the_best_training_dice() -> None:
    from benchmarks.tasks.segmentation.prior import mean_mask

    masks = np.zeros((4, 4, 4), dtype=np.uint8)
    masks[:3, :2] = 1  # three times the upper half, once with a corner more
    masks[2, 3, 3] = 1
    best, mean = mean_mask(masks, np.arange(4))
    assert best[:2].all() and not best[2:].any()
    assert mean[0, 0] == 1 and mean[3, 3] == pytest.approx(1 / 3) and mean[3, 0] == 0
    assert not np.concatenate(mean_mask(masks, np.array([3]))).any()


def test_pixel_ap_is_scikit_learns_on_the_bins() -> None:
    from sklearn.metrics import average_precision_score

    from benchmarks.tasks.segmentation.model import BINS, RANGE, pixel_histograms

    draw = torch.Generator().manual_seed(0)
    truth = torch.rand(5, 12, 12, generator=draw) < 0.2
    truth[3] = False  # without the finding: not among the pixels
    logits = (3 * torch.randn(5, 1, 12, 12, generator=draw) + 2 * truth[:, None]).clamp(-9, 9)
    histograms = pixel_histograms(logits, truth).numpy()
    assert (histograms.sum(axis=(1, 2)) == 144).all()
    frame = pd.DataFrame({"truth": truth.sum((1, 2)).numpy()})
    frame["on_true"], frame["on_other"] = list(histograms[:, 0]), list(histograms[:, 1])
    seen = [0, 1, 2, 4]
    steps = np.ceil(logits[seen, 0].clamp(-RANGE, RANGE).numpy() * BINS / (2 * RANGE))
    expected = average_precision_score(truth[seen].numpy().ravel(), steps.ravel())
    assert METRICS["pixel_ap"].value(frame) == pytest.approx(expected, abs=2e-3)
    # A film drawn twice counts twice.
    units, weights = np.arange(5), np.array([[2.0], [1], [1], [7], [0]], dtype=np.float32)
    _, resampled = METRICS["pixel_ap"].resample(frame, units, weights)
    twice = frame.iloc[[0, 0, 1, 2]].reset_index(drop=True)
    assert resampled[0] == pytest.approx(METRICS["pixel_ap"].value(twice), rel=1e-6)


def test_the_threshold_is_the_best_on_the_films_that_are_given() -> None:
    from benchmarks.scores.dice import dice_from_counts
    from benchmarks.tasks.segmentation.model import BINS, best_bins, bins_above, counts_above, pixel_histograms

    draw = torch.Generator().manual_seed(1)
    truth = torch.rand(6, 10, 10, generator=draw) < 0.3
    logits = torch.randn(6, 1, 10, 10, generator=draw) - 3 + 2 * truth[:, None]
    histograms = pixel_histograms(logits, truth).numpy()
    dice = [dice_from_counts(*counts_above(histograms, k).T, empty_score=None).mean() for k in range(1, BINS + 1)]
    assert best_bins(histograms) == int(np.argmax(dice)) + 1 != bins_above(0.5)
    assert max(dice) > 0.1 + dice[bins_above(0.5) - 1]
    assert best_bins(histograms * 0) == BINS // 2


def test_validation_selects_and_stops(tmp_path: Path, monkeypatch) -> None:
    config = world.study(tmp_path)
    world.plant(config)
    world.give_encoder(monkeypatch, world.encoder(config, "cnn"))
    small = {"unet_channels": [32, 16, 16, 8], "epochs": 2}
    job = world.job(TASK, config, protocol="mgca-2022", **small)
    assert len(TASK.run(job)) == 24


def test_check_refuses_a_data_set_without_masks(tmp_path: Path) -> None:
    protocol = read_protocol("segmentation", "strict")
    TASK.check(protocol, source_of(world.study(tmp_path), "squares"), world.study(tmp_path))
    with pytest.raises(UserError, match="has no masks"):
        TASK.check(
            protocol,
            source_of(world.study(tmp_path, reader="object_cxr"), "squares"),
            world.study(tmp_path, reader="object_cxr"),
        )
