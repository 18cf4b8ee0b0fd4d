"""Every metric of the tables, computed from predictions, once exactly and many times under bootstrap weights.

A metric is *prepared* on the predictions of one (seed, fraction, draw); the statistic that comes out gives its value and
its resamples (``benchmarks/scores/weighted.py``). All metrics lie in [0, 1], higher is better.

Sources: AUROC as the Mann-Whitney statistic with ties at one half (Hanley & McNeil 1982); average precision as in
scikit-learn; mAP as COCO's 101-point interpolation (pycocotools ``COCOeval.accumulate``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.scores.dice import dice_from_counts
from benchmarks.scores.pixels import pixel_average_precision
from benchmarks.scores.weighted import Ranked, Statistic, Sums, Undefined, category_ap, mean, ratio


@dataclass(frozen=True)
class Metric:
    """A metric: the prediction columns it reads, and how it is prepared."""

    columns: tuple[str, ...]
    prepare: Callable[[pd.DataFrame, np.ndarray, dict[str, Any]], Statistic]

    def value(self, frame: pd.DataFrame, args: dict[str, Any] | None = None) -> float:
        """The metric of one (seed, fraction, draw).

        Raises
        ------
        Undefined : e.g. a label has one class only, or a score is not finite.
        """
        units = np.zeros(len(frame), dtype=np.int64)
        return self.resample(frame, units, np.ones((1, 0), dtype=np.float32), args)[0]

    def resample(
        self, frame: pd.DataFrame, units: np.ndarray, weights: np.ndarray, args: dict[str, Any] | None = None
    ) -> tuple[float, np.ndarray]:
        """The metric, and the metric ``[R]`` in R resamples.

        ``weights [P, R]`` holds how often each patient is drawn, ``units [rows]`` the patient of each prediction.

        Raises
        ------
        Undefined : as in :meth:`value`.
        """
        statistic = self.prepare(frame, units, args or {})
        value = float(statistic(np.ones((len(weights), 1)))[0])
        if not np.isfinite(value):
            raise Undefined("is not defined on these predictions")
        return value, statistic(weights)


# --- classification ---------------------------------------------------------------------------------------------------


def by_label(frame: pd.DataFrame, units: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """(label, y bool, p float64, units) per label; labels in alphabetical order."""
    y, p = frame["y"].to_numpy(dtype=float), frame["p"].to_numpy(dtype=float)
    if not np.isfinite(p).all():
        raise Undefined(f"{int((~np.isfinite(p)).sum())} of {len(p)} scores are not finite")
    if not ((y == 0) | (y == 1)).all():
        raise Undefined("the truth holds values other than 0 and 1")
    if not len(frame):
        raise Undefined("there are no predictions")
    codes, labels = pd.factorize(frame["label"], sort=True)
    for code, label in enumerate(labels):
        rows = np.flatnonzero(codes == code)
        yield str(label), y[rows] > 0, p[rows], units[rows]


def _two_classes(label: str, y: np.ndarray) -> None:
    if y.all() or not y.any():
        raise Undefined(
            f"label {label!r} has only {'positives' if y.all() else 'negatives'} among {len(y)} test images"
        )


def _macro(frame: pd.DataFrame, units: np.ndarray, formula: Callable[[Sums], np.ndarray]) -> Statistic:
    """Mean over labels of a formula on their weighted counts."""
    statistics = []
    for label, y, p, rows in by_label(frame, units):
        _two_classes(label, y)
        statistics.append(Ranked.of(y, p, rows).statistic(formula))
    return mean(statistics)


def _auroc(frame: pd.DataFrame, units: np.ndarray, args: dict[str, Any]) -> Statistic:
    """Macro AUROC. For each positive the share of negatives below it, ties counting one half."""

    def formula(sums: Sums) -> np.ndarray:
        lost = (sums.own * (sums.above() + sums.fp())).sum(axis=0, dtype=float) / 2
        return 1 - lost / (sums.n_positive * sums.n_negative)

    return _macro(frame, units, formula)


def _average_precision(frame: pd.DataFrame, units: np.ndarray, args: dict[str, Any]) -> Statistic:
    """Macro average precision: mean over positives of the precision at their own threshold (not interpolated)."""

    def formula(sums: Sums) -> np.ndarray:
        tp = sums.tp()
        precision = tp / np.maximum(tp + sums.fp(), 1e-12)
        return (sums.own * precision).sum(axis=0, dtype=float) / sums.n_positive

    return _macro(frame, units, formula)


def _at_best_f1(frame: pd.DataFrame, units: np.ndarray, accuracy: bool) -> Statistic:
    """F1, or the accuracy, at the threshold of the highest F1 **on the test images** (MedKLIP's test.py): an oracle.

    The threshold is chosen anew in every resample. The best threshold is always the score of a positive.
    """

    def formula(sums: Sums) -> np.ndarray:
        tp, fp = sums.tp(), sums.fp()
        f1 = 2 * tp / np.maximum(tp + fp + sums.n_positive, 1e-12)
        best = f1.argmax(axis=0)[None]
        if not accuracy:
            return np.take_along_axis(f1, best, 0)[0]
        right = tp - fp + sums.n_negative
        return np.take_along_axis(right, best, 0)[0] / (sums.n_positive + sums.n_negative)

    return _macro(frame, units, formula)


def _accuracy(frame: pd.DataFrame, units: np.ndarray, args: dict[str, Any]) -> Statistic:
    """Mean over labels of the accuracy at ``threshold`` (p > threshold is positive), or at "best_f1"."""
    threshold = args.get("threshold", 0.5)
    if threshold == "best_f1":
        return _at_best_f1(frame, units, accuracy=True)
    return mean(
        [ratio(u, ((p > threshold) == y).astype(float), np.ones(len(y))) for _, y, p, u in by_label(frame, units)]
    )


def _f1(frame: pd.DataFrame, units: np.ndarray, args: dict[str, Any]) -> Statistic:
    """Mean over labels of F1 at ``threshold`` (or "best_f1").

    ``average``: "binary" (F1 of the positives) or "weighted" (F1 of positives and of negatives, weighted by how many
    there are: scikit-learn's, used by the MaCo lineage). Without positives in truth and prediction it is 0.
    """
    threshold, average = args.get("threshold", 0.5), args.get("average", "binary")
    if average not in ("binary", "weighted"):
        raise Undefined(f"the protocol asks for average={average!r}, which is neither binary nor weighted")
    if threshold == "best_f1":
        if average != "binary":
            raise Undefined("the threshold best_f1 goes with average=binary")
        return _at_best_f1(frame, units, accuracy=False)
    statistics = []
    for label, y, p, rows in by_label(frame, units):
        _two_classes(label, y)
        said = p > threshold
        parts = []
        for truth, found in ((y, said), (~y, ~said)):
            parts.append((rows, 2.0 * (truth & found), truth.astype(float) + found, truth.astype(float)))
        statistics.append(_weighted_f1(parts if average == "weighted" else parts[:1]))
    return mean(statistics)


def _weighted_f1(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> Statistic:
    def statistic(weights: np.ndarray) -> np.ndarray:
        patients, total, support = weights.shape[0], 0.0, 0.0
        for rows, top, bottom, truth in parts:
            top, bottom, share = (np.bincount(rows, x, patients) @ weights for x in (top, bottom, truth))
            f1 = np.divide(top, bottom, out=np.zeros(top.shape), where=bottom > 0)
            total, support = total + f1 * share, support + share
        return np.divide(total, support, out=np.full(np.shape(total), np.nan), where=np.asarray(support) > 0)

    return statistic


def _accuracy_argmax(frame: pd.DataFrame, units: np.ndarray, args: dict[str, Any]) -> Statistic:
    """Share of images whose highest-scored label is the true one. k labels that share the top score count 1/k."""
    next(by_label(frame, units))  # the checks
    labels = frame["label"].nunique()
    order = np.lexsort((frame["label"].to_numpy(dtype=str), frame["image_id"].to_numpy(dtype=str)))
    if len(frame) != labels * frame["image_id"].nunique():
        raise Undefined("an image lacks the score of some label")
    y = frame["y"].to_numpy(dtype=float)[order].reshape(-1, labels)
    p = frame["p"].to_numpy(dtype=float)[order].reshape(-1, labels)
    if not (y.sum(axis=1) == 1).all():
        raise Undefined("an image has not exactly one true label")
    top = p == p.max(axis=1, keepdims=True)
    right = (top * y).sum(axis=1) / top.sum(axis=1)
    return ratio(units[order][::labels], right, np.ones(len(right)))


# --- ranking ----------------------------------------------------------------------------------------------------------


def _recall_at(frame: pd.DataFrame, units: np.ndarray, args: dict[str, Any]) -> Statistic:
    """Share of queries whose match is among the first ``k``; mean over directions, or the one named ``direction``.

    Ranks are kept as they were among all candidates: a resample draws queries, not candidates.
    """
    labels = sorted(frame["label"].unique()) if "direction" not in args else [args["direction"]]
    statistics = []
    for label in labels:
        rows = np.flatnonzero((frame["label"] == label).to_numpy())
        if not len(rows):
            raise Undefined(f"there are no {label} queries")
        hit = (frame["rank"].to_numpy()[rows] < int(args["k"])).astype(float)
        statistics.append(ratio(units[rows], hit, np.ones(len(rows))))
    if not statistics:
        raise Undefined("there are no queries")
    return mean(statistics)


# --- segmentation -----------------------------------------------------------------------------------------------------


def _dice(frame: pd.DataFrame, units: np.ndarray, args: dict[str, Any]) -> Statistic:
    """Mean Dice over images (:func:`benchmarks.scores.dice.dice_from_counts`).

    ``empty`` says what an image without true pixels scores: "one_if_empty" (1 if nothing is predicted, else 0: GLoRIA,
    MGCA, MaCo) or "skip" (only images with true pixels count).
    """
    if not len(frame):
        raise Undefined("there are no predictions")
    empty = args.get("empty", "one_if_empty")
    if empty not in ("one_if_empty", "skip"):
        raise Undefined(f"the protocol asks for empty={empty!r}, which is neither one_if_empty nor skip")
    tp, predicted, truth = (frame[c].to_numpy(dtype=float) for c in ("tp", "predicted", "truth"))
    score = dice_from_counts(tp, predicted, truth, 1.0 if empty == "one_if_empty" else None)
    counted = np.isfinite(score)
    if not counted.any():
        raise Undefined("no test image has a true pixel")
    return ratio(units, np.where(counted, score, 0.0), counted.astype(float))


def _pixel_ap(frame: pd.DataFrame, units: np.ndarray, args: dict[str, Any]) -> Statistic:
    """Average precision over all pixels of the films with the finding, pooled; no threshold takes part.

    From histograms of the predicted logit over true and over other pixels (columns ``on_true``, ``on_other``), see
    :func:`benchmarks.scores.pixels.pixel_average_precision`.
    """
    rows = np.flatnonzero(frame["truth"].to_numpy() > 0)
    if not len(rows):
        raise Undefined("no test image has a true pixel")
    on, off = (np.stack(list(frame[c].to_numpy()[rows])).astype(float) for c in ("on_true", "on_other"))

    def statistic(weights: np.ndarray) -> np.ndarray:
        per_film = weights[units[rows]]
        return pixel_average_precision(on.T @ per_film, off.T @ per_film)

    return statistic


# --- detection --------------------------------------------------------------------------------------------------------


def _map(frame: pd.DataFrame, units: np.ndarray, args: dict[str, Any]) -> Statistic:
    """COCO's AP (101 recall points, interpolated precision): mean over IoU thresholds and categories with true boxes.

    ``matched`` holds for each detection a bit mask over ``ious``: bit i is set where it is a true positive at IoU i;
    ``at`` picks one of them. Rows may carry a category in ``label``. The MGCA lineage leaves out images without
    detections (``skip_undetected``) and images without truth (``skip_negative``).
    """
    ious = list(args["ious"])
    bits = [ious.index(args["at"])] if "at" in args else list(range(len(ious)))
    truths = frame["n_truth"].to_numpy(dtype=float)
    count = frame["scores"].map(len).to_numpy(dtype=np.int64)
    if (count != frame["matched"].map(len).to_numpy()).any():
        raise Undefined("scores and matched differ in length")
    keep = np.ones(len(frame), dtype=bool)
    if args.get("skip_undetected"):
        keep &= count > 0
    if args.get("skip_negative"):
        keep &= truths > 0
    categories = frame["label"].to_numpy(dtype=str) if "label" in frame else np.zeros(len(frame), dtype=str)
    statistics = []
    for category in np.unique(categories):
        rows = np.flatnonzero(keep & (categories == category))
        if truths[rows].any():
            scores = np.concatenate([np.asarray(s, dtype=float) for s in frame["scores"].to_numpy()[rows]])
            matched = np.concatenate([np.asarray(m, dtype=np.int64) for m in frame["matched"].to_numpy()[rows]])
            if not np.isfinite(scores).all():
                raise Undefined(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite")
            owners = np.repeat(units[rows], count[rows])
            statistics.append(category_ap(scores, matched, owners, units[rows], truths[rows], bits))
    if not statistics:
        raise Undefined("no test image that counts has a true box")
    return mean(statistics)


_CLASSIFICATION = ("image_id", "patient_id", "label", "y", "p")

METRICS: dict[str, Metric] = {
    "auroc": Metric(_CLASSIFICATION, _auroc),
    "average_precision": Metric(_CLASSIFICATION, _average_precision),
    "accuracy": Metric(_CLASSIFICATION, _accuracy),
    "f1": Metric(_CLASSIFICATION, _f1),
    "accuracy_argmax": Metric(_CLASSIFICATION, _accuracy_argmax),
    "recall_at": Metric(("image_id", "patient_id", "label", "rank"), _recall_at),
    "dice": Metric(("image_id", "patient_id", "tp", "predicted", "truth"), _dice),
    "pixel_ap": Metric(("image_id", "patient_id", "truth", "on_true", "on_other"), _pixel_ap),
    "map": Metric(("image_id", "patient_id", "n_truth", "scores", "matched"), _map),
}
