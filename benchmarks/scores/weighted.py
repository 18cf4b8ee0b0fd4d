"""What the metrics are made of: sums under bootstrap weights, prepared once and evaluated in many resamples.

A :data:`Statistic` maps patient multiplicities ``[P, R]`` to a number in each of R resamples. A patient drawn twice weighs
twice in every sum, which is the same as repeating the rows. Everything that does not depend on the weights (sorting,
matching positions) is done before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

Statistic = Callable[
    [np.ndarray], np.ndarray
]  # patient multiplicities [P, R] float -> metric [R] (NaN: undefined there)

BLOCK = 4_000_000  # elements of one block of weighted running sums: bounds the memory, about 16 MB in float32
RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's recall thresholds


class Undefined(ValueError):
    """The metric has no value on these predictions; the message says why and ends in the table as the cell's reason."""


def ratio(units: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> Statistic:
    """Weighted sum of ``numerator`` over that of ``denominator``: means and pooled ratios."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        patients = weights.shape[0]
        top = np.bincount(units, numerator, patients) @ weights
        bottom = np.bincount(units, denominator, patients) @ weights
        return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)

    return statistic


def mean(statistics: list[Statistic]) -> Statistic:
    """Mean over labels; a label without value in a resample (one class was not drawn) is left out there."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        values = np.stack([s(weights) for s in statistics])
        there = np.isfinite(values)
        count = there.sum(axis=0)
        total = np.where(there, values, 0.0).sum(axis=0)
        return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)

    return statistic


@dataclass(frozen=True)
class Ranked:
    """One label's images by descending score: what every threshold metric is made of.

    The K distinct scores of positives are the thresholds at which anything changes, so the negatives enter as counts between
    and at them, per patient (sparse matrices times the weights). Ties are thereby handled as one threshold.
    """

    positives: sparse.csr_matrix  # [K, P] of each patient at each threshold, the highest first
    between: sparse.csr_matrix  # [K + 1, P] negatives above threshold k and below the one before; last: below all
    tied: sparse.csr_matrix  # [K, P] negatives at threshold k

    @classmethod
    def of(cls, y: np.ndarray, p: np.ndarray, units: np.ndarray) -> Ranked:
        thresholds = np.unique(p[y])  # ascending
        count, size = len(thresholds), int(units.max()) + 1
        low = np.searchsorted(thresholds, p, "left")
        equal = np.searchsorted(thresholds, p, "right") > low
        table = lambda rows, chosen, height: _counts(rows[chosen], units[chosen], (height, size))  # noqa: E731
        at = count - 1 - low  # of scores that equal a threshold
        return cls(table(at, y, count), table(count - low, ~y & ~equal, count + 1), table(at, ~y & equal, count))

    def statistic(self, formula: Callable[[Sums], np.ndarray]) -> Statistic:
        """``formula`` in blocks of resamples; NaN where a class was not drawn."""
        thresholds, size = self.positives.shape
        step = max(1, BLOCK // max(thresholds + 1, size))

        def run(weights: np.ndarray) -> np.ndarray:
            out = np.full(weights.shape[1], np.nan)
            for start in range(0, weights.shape[1], step):
                sums = Sums(self, np.ascontiguousarray(weights[:size, start : start + step]))
                with np.errstate(invalid="ignore", divide="ignore"):
                    values = formula(sums)
                both = (sums.n_positive > 0) & (sums.n_negative > 0)
                out[start : start + step] = np.where(both, values, np.nan)
            return out

        return run


def _counts(rows: np.ndarray, units: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, units)), shape=shape)


class Sums:
    """Weighted counts of one label in a block of resamples, at the threshold of each distinct score of positives."""

    def __init__(self, ranked: Ranked, weights: np.ndarray) -> None:
        self.own = ranked.positives @ weights  # [K, R] positives at the threshold
        self._tied = ranked.tied @ weights
        passed = np.cumsum(ranked.between @ weights, axis=0)  # [K + 1, R] without the tied ones
        self._above = passed[:-1]
        self._above[1:] += np.cumsum(self._tied[:-1], axis=0)
        self.n_positive = self.own.sum(axis=0, dtype=float)  # [R]
        self.n_negative = passed[-1].astype(float) + self._tied.sum(axis=0, dtype=float)  # [R]

    def tp(self) -> np.ndarray:
        """[K, R] positives at or above each threshold."""
        return np.cumsum(self.own, axis=0)

    def fp(self) -> np.ndarray:
        """[K, R] negatives at or above each threshold."""
        return self._above + self._tied

    def above(self) -> np.ndarray:
        """[K, R] negatives strictly above each threshold."""
        return self._above


def category_ap(
    scores: np.ndarray, matched: np.ndarray, owners: np.ndarray, units: np.ndarray, truths: np.ndarray, bits: list[int]
) -> Statistic:
    """AP of one category, mean over ``bits``. ``owners`` are the units of the detections, ``units`` those of the images.

    Precision rises only at true positives, so the interpolated precision needs only their places in the ranking; the
    detections between two of them enter as counts per patient (a sparse matrix times the weights).
    """
    order = np.argsort(-scores, kind="mergesort")  # stable, as in pycocotools
    matched, owners = matched[order], owners[order]
    places = np.flatnonzero(matched & sum(1 << bit for bit in bits))  # true at one IoU at least
    segment = np.searchsorted(places, np.arange(len(owners)))  # the first such place at or after each detection
    inside = segment < len(places)  # what comes after the last true positive lowers nothing

    def statistic(weights: np.ndarray) -> np.ndarray:
        patients, replicates = weights.shape
        n_truth = np.bincount(units, truths, patients) @ weights
        total = np.zeros(replicates)
        if len(places):
            ones = np.ones(int(inside.sum()), dtype=weights.dtype)
            between = sparse.csr_matrix((ones, (segment[inside], owners[inside])), shape=(len(places), patients))
            detections = np.cumsum(between @ weights, axis=0)  # [K, R] weighted detections down to each place
            own = weights[owners[places]]
            for bit in bits:
                true = np.flatnonzero((matched[places] >> bit) & 1)
                if len(true):
                    total += _interpolated_ap(np.cumsum(own[true], axis=0), detections[true], n_truth)
        return np.where(n_truth > 0, total / len(bits), np.nan)

    return statistic


def _interpolated_ap(tp: np.ndarray, detections: np.ndarray, n_truth: np.ndarray) -> np.ndarray:
    """AP [R] from running sums [K, R] of true positives and of detections at the true positives' places."""
    precision = tp / np.maximum(detections, 1e-12)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = tp / np.maximum(n_truth, 1e-12, dtype=float)
    # How many of the 101 thresholds each place reaches; the nearest is found by rounding, then compared exactly.
    nearest = np.rint(recall * 100).astype(np.int64)
    reached = nearest + (RECALLS[nearest] <= recall)
    reached[1:] -= reached[:-1].copy()
    return np.einsum("kr,kr->r", envelope, reached.astype(float)) / len(RECALLS)
