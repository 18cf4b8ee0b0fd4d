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

    For positive i, ``tp[i]`` and ``fp[i]`` count the positives and negatives with a score >= its own, and ``above[i]``
    the negatives with a strictly higher score. Ties are thereby handled as one threshold.
    """

    positives: np.ndarray  # units, by descending score
    negatives: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    above: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, p: np.ndarray, units: np.ndarray) -> Ranked:
        order = np.argsort(-p, kind="stable")
        y, p, units = y[order], -p[order], units[order]  # p ascending now
        pos, neg = p[y], p[~y]
        return cls(
            units[y], units[~y],
            np.searchsorted(pos, pos, "right"), np.searchsorted(neg, pos, "right"), np.searchsorted(neg, pos, "left"),
        )  # fmt: skip

    def statistic(self, formula: Callable[[Sums], np.ndarray]) -> Statistic:
        """``formula`` in blocks of resamples; NaN where a class was not drawn."""
        step = max(1, BLOCK // (len(self.positives) + len(self.negatives)))

        def run(weights: np.ndarray) -> np.ndarray:
            out = np.full(weights.shape[1], np.nan)
            for start in range(0, weights.shape[1], step):
                part = weights[:, start : start + step]
                sums = Sums(self, part[self.positives], running(part[self.negatives]))
                with np.errstate(invalid="ignore", divide="ignore"):
                    values = formula(sums)
                both = (sums.n_positive > 0) & (sums.n_negative > 0)
                out[start : start + step] = np.where(both, values, np.nan)
            return out

        return run


class Sums:
    """Weighted counts of one label in a block of resamples, at the threshold of each positive."""

    def __init__(self, ranked: Ranked, own: np.ndarray, negatives: np.ndarray) -> None:
        self.ranked, self.negatives = ranked, negatives  # negatives: running sums [n- + 1, R] from 0
        self.own = own  # [n+, R] weights of the positives
        self.n_positive = own.sum(axis=0, dtype=float)  # [R]
        self.n_negative = negatives[-1].astype(float)  # [R]

    def tp(self) -> np.ndarray:
        """[n+, R] positives at or above each positive's score."""
        return running(self.own)[self.ranked.tp]

    def fp(self) -> np.ndarray:
        """[n+, R] negatives at or above each positive's score."""
        return self.negatives[self.ranked.fp]

    def above(self) -> np.ndarray:
        """[n+, R] negatives strictly above each positive's score."""
        return self.negatives[self.ranked.above]


def running(weights: np.ndarray) -> np.ndarray:
    """[n, R] -> running sums [n + 1, R] that start at 0."""
    out = np.empty((weights.shape[0] + 1, weights.shape[1]), dtype=weights.dtype)
    out[0] = 0
    for row in range(len(weights)):  # row by row is twice as fast as numpy's cumsum along the long axis
        np.add(out[row], weights[row], out=out[row + 1])
    return out


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
