"""The segmentation task. SMP and torch are imported only when a decoder is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from benchmarks.tasks.segmentation.protocol import SegmentationProtocol
from benchmarks.tasks.shared.dense.protocol import with_balance
from benchmarks.tasks.shared.task import EvalJob, MetricSpec, Source, Task
from mlip.errors import UserError
from mlip.study import Study

if TYPE_CHECKING:
    import torch

    from benchmarks.tasks.shared.dense.features import Features
    from benchmarks.tasks.shared.state import State
    from benchmarks.tasks.shared.training import Fitted

TEST_BATCH = 32
DRAWN = 8


class SegmentationTask(Task):
    """A decoder on the encoder, frozen or trained with it, for each label fraction and draw. A few predicted masks lie beside the rows.

    Rows: one per test image with a known mask, fraction and draw, with the columns ``image_id, patient_id, fraction,
    draw, tp, predicted, truth, on_true, on_other, iterations, stopped, seen, labelled``: pixels at the stored resolution that are predicted
    and true, predicted, true; the histograms of the predicted logit over true and over other pixels
    (:func:`pixel_histograms`); how the training went (:class:`benchmarks.tasks.shared.training.Fitted`).
    """

    name = "segmentation"
    title = "Segmentation"
    needs: ClassVar[Literal["features", "method"]] = "method"
    controls = ("empty-mask", "mean-mask")
    label_draws = True
    needs_maps = True
    added = ("layer_decay", "augmentation", "upernet", "taps", "auxiliary")
    scored_later = ("leaderboard",)
    Protocol = SegmentationProtocol

    def run(self, job: EvalJob) -> pd.DataFrame:
        from benchmarks.tasks.shared.dense.features import features_of
        from benchmarks.tasks.shared.state import Kept
        from benchmarks.tasks.shared.training import deterministic

        data = _Data(job)
        features = features_of(job, data.store.images, data.rows.known, taps=job.protocol.taps)

        def train(fraction: int, draw: int, state: State | None) -> pd.DataFrame:
            return data.table(*_train_and_count(job, data, features, fraction, draw, state), fraction, draw)

        with deterministic(job.device):
            return Kept(job).table(self.plan(job.protocol, job.task), train)

    def run_control(self, job: EvalJob) -> pd.DataFrame:
        import torch

        from benchmarks.tasks.segmentation.model import pixel_histograms
        from benchmarks.tasks.segmentation.prior import mean_mask
        from benchmarks.tasks.shared.training import NOT_TRAINED

        data = _Data(job)
        truth = np.concatenate([data.masks(chunk) for chunk in _chunks(data.test)]) > 0
        parts = []
        for fraction, draw in self.plan(job.protocol, job.task):
            guess = score = np.zeros(truth.shape[1:])
            if job.method == "mean-mask":
                assert data.store.masks is not None
                guess, score = mean_mask(data.store.masks, data.mask_row[data.rows.train(fraction, draw)])
            logits = torch.from_numpy(score).logit(eps=1e-6)[None, None].expand(len(truth), 1, -1, -1)
            axes, found = (1, 2), guess > 0
            counts = [(truth & found).sum(axes), np.full(len(truth), found.sum()), truth.sum(axes)]
            histograms = pixel_histograms(logits, torch.from_numpy(truth)).numpy()
            parts.append(data.table(np.stack(counts, axis=1), histograms, NOT_TRAINED, fraction, draw))
        return pd.concat(parts, ignore_index=True)

    def most_seen(self, protocol: SegmentationProtocol, source: Source, fraction: int, films: int) -> int:
        return protocol.most_seen(fraction, films)

    def with_target(self, protocol: SegmentationProtocol, source: Source, target: dict[str, Any]) -> Any:
        return with_balance(protocol, source.kind, target)

    def metrics(self, protocol: SegmentationProtocol, source: Source) -> list[MetricSpec]:
        specs = [
            MetricSpec("dice", "Dice (images with the finding)", {"empty": "skip"}),
            MetricSpec("dice", "Dice (empty = 1 if empty)", {"empty": "one_if_empty"}),
        ]
        specs = specs if protocol.leaderboard == "positives" else specs[::-1]
        return [*specs, MetricSpec("pixel_ap", "Pixel AP")]

    def check(self, protocol: SegmentationProtocol, source: Source, study: Study) -> None:
        if not source.reader.mask_name:
            raise UserError(
                f"{source.name} (reader {source.kind}) has no masks",
                where=f"{study.study}: tasks.segmentation.datasets",
                fix="name a data set with masks",
            )


class _Data:
    """Images, masks and row numbers of one job."""

    def __init__(self, job: EvalJob) -> None:
        from benchmarks.tasks.shared.dense.data import KnownRows
        from mlip.data.store import open_store

        self.store = open_store(job.paths.data(job.dataset))
        if self.store.masks is None:
            raise UserError(
                "holds no masks", where=job.paths.data(job.dataset), fix="check that the data set's masks are there"
            )
        self.mask_row = self.store.records["mask_row"].to_numpy(dtype=np.int64)
        self.rows = KnownRows(job, self.store, self.mask_row >= 0)
        self.test = self.rows.part("test")

    def masks(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [B, S, S] masks of the images with these rows."""
        from mlip.data.pixels import load

        assert self.store.masks is not None
        return load(self.store.masks, self.mask_row[rows])

    def positive(self, rows: np.ndarray) -> np.ndarray:
        """[n] bool: whether the mask of each image has a pixel."""
        return np.concatenate([self.masks(chunk).any(axis=(1, 2)) for chunk in _chunks(rows)])

    def drawn(self) -> np.ndarray:
        """Rows [n <= DRAWN] of the first test images with the finding: those whose predicted masks are kept to be looked at."""
        return self.test[self.positive(self.test)][:DRAWN]

    def table(
        self, counts: np.ndarray, histograms: np.ndarray, fitted: Fitted, fraction: int, draw: int
    ) -> pd.DataFrame:
        """The task's rows from [n, 3] counts and [n, 2, bins] histograms of the test images."""
        table = self.rows.identifiers(self.test)
        table["fraction"], table["draw"] = fraction, draw
        for column, values in zip(("tp", "predicted", "truth"), counts.T, strict=True):
            table[column] = values.astype(np.int64)
        table["on_true"], table["on_other"] = list(histograms[:, 0]), list(histograms[:, 1])
        return table.assign(**fitted.columns)


def _train_and_count(
    job: EvalJob, data: _Data, features: Features, fraction: int, draw: int, state: State | None
) -> tuple[np.ndarray, np.ndarray, Fitted]:
    """Counts [n, 3] and histograms [n, 2, bins] of the test images, and how the training went."""
    import torch

    from benchmarks.scores.dice import dice_from_counts
    from benchmarks.scores.pixels import pixel_average_precision
    from benchmarks.tasks.segmentation.losses import FocalDice
    from benchmarks.tasks.segmentation.masks import write_masks
    from benchmarks.tasks.segmentation.model import (
        Segmenter,
        best_bins,
        bins_above,
        counts_above,
        masks_above,
        pixel_histograms,
    )
    from benchmarks.tasks.shared.augment import augment_with_masks
    from benchmarks.tasks.shared.dense.features import TrainedFeatures
    from benchmarks.tasks.shared.dense.heads import HeadTraining

    protocol: SegmentationProtocol = job.protocol
    training = HeadTraining(SegmentationTask.name, job, data.rows, data.positive, fraction, draw)
    training.seed("decoder")
    model = Segmenter(features.maps, protocol, job.study.image_size).to(job.device)
    criterion = FocalDice(protocol)
    few = training.few

    def truth(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(data.masks(rows)).to(job.device)

    def held_out(rows: np.ndarray) -> torch.Tensor:
        return criterion(model(features.batch(rows)), truth(rows)[:, None].float())

    def loss_of(rows: np.ndarray) -> torch.Tensor:
        if not isinstance(features, TrainedFeatures):
            return training_loss(features.batch(rows), truth(rows)[:, None].float())
        films, masks = augment_with_masks(features.films(rows), data.masks(rows), protocol.augmentation)
        return training_loss(features.of_films(films), torch.from_numpy(masks).to(job.device)[:, None].float())

    def training_loss(maps: list[torch.Tensor], masks: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = criterion(model(maps), masks)
        aside = model.aside(maps)
        return loss if aside is None else loss + protocol.auxiliary * criterion(aside, masks)

    @torch.no_grad()
    def histograms(rows: np.ndarray) -> np.ndarray:
        features.prepare(rows)
        parts = [pixel_histograms(model(features.batch(chunk)), truth(chunk)) for chunk in _chunks(rows)]
        return torch.cat(parts).cpu().numpy()

    @torch.no_grad()
    def validate() -> float:
        if protocol.reading == "pixel_ap":
            found = histograms(few)
            pooled = found[found[:, 0].sum(axis=1) > 0].sum(axis=0)
            return float(np.nan_to_num(pixel_average_precision(pooled[0], pooled[1])))
        if protocol.reading == "dice":
            return float(dice_from_counts(*counts_above(histograms(few), bins_above(0.5)).T).mean())
        losses = [(len(chunk), held_out(chunk).item()) for chunk in _chunks(few)]
        return -float(np.average([loss for _, loss in losses], weights=[count for count, _ in losses]))

    fitted = training.fit(model, features, loss_of, validate, state)

    bins = best_bins(histograms(few)) if protocol.threshold == "validation" else bins_above(protocol.threshold)
    found = histograms(data.test)
    if len(few := data.drawn()):
        with torch.no_grad():
            masks = masks_above(model(features.batch(few)), bins)
        write_masks(job.output, fraction, draw, data.store.records["image_id"].iloc[few].tolist(), masks)
    return counts_above(found, bins), found, fitted


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + TEST_BATCH] for start in range(0, len(rows), TEST_BATCH)]
