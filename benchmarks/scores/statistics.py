"""Intervals and ranks of the tables: a hierarchical, paired bootstrap over patients, draws and pre-training seeds.

One resample draws (1) test patients, (2) label draws and (3) pre-training seeds, each with replacement, and averages
the metric over the drawn draws and seeds. Draws and seeds are crossed, so they are drawn separately and multiplied
(Owen 2007, "The pigeonhole bootstrap"). Patients and draws are the same for all methods of a table, which makes their
differences paired; seeds of two methods have nothing in common and are drawn per method. Of draws and seeds, which are
few, one less is drawn than there are: a resample of all D would have only (D - 1)/D of the variance of their mean
(Rao & Wu 1988, "Resampling inference with complex survey data", the case of n - 1). Where a study has a single
seed (or draw) the interval cannot hold that source of variation, and the tables say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def multiplicities(units: int, replicates: int, rng: np.random.Generator, fewer: int = 0) -> np.ndarray:
    """How often each of ``units`` things is drawn in each resample: float32 [units, replicates].

    As many are drawn as there are, less ``fewer`` (at least one).
    """
    size = max(1, units - fewer)
    drawn = rng.integers(0, units, size=(replicates, size))
    drawn += units * np.arange(replicates)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=units * replicates).reshape(replicates, units)
    return np.ascontiguousarray(counts.T, dtype=np.float32)


@dataclass(frozen=True)
class Estimate:
    """A cell: mean over seeds and draws, its percentile interval, and the resamples [R] it was read from."""

    value: float
    low: float
    high: float
    replicates: np.ndarray


def combine(values: np.ndarray, replicates: np.ndarray, seeds: np.ndarray, draws: np.ndarray, level: float) -> Estimate:
    """The hierarchical bootstrap of one cell.

    Parameters
    ----------
    values : [S, D] the metric of each seed and draw on the test images.
    replicates : [S, D, R] the same in each resample of the patients (NaN where undefined).
    seeds, draws : [S, R] and [D, R] multiplicities of seeds and draws in each resample.
    level : coverage of the interval, e.g. 0.95.
    """
    weight = seeds[:, None, :].astype(float) * draws[None, :, :]
    there = np.isfinite(replicates)
    weight = weight * there
    total = weight.sum(axis=(0, 1))
    summed = (weight * np.where(there, replicates, 0.0)).sum(axis=(0, 1))
    resampled = np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)
    low, high = interval(resampled, level)
    return Estimate(float(values.mean()), low, high, resampled)


def interval(replicates: np.ndarray, level: float) -> tuple[float, float]:
    """Percentile interval [low, high] of the resamples in which the metric was defined; NaN if there were none."""
    kept = replicates[np.isfinite(replicates)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def better(a: np.ndarray, b: np.ndarray, level: float) -> bool:
    """Whether ``a`` is separably better than ``b``: the interval of their paired difference lies above 0."""
    return interval(a - b, level)[0] > 0


@dataclass(frozen=True)
class Ranking:
    """Ranks of the methods of one cell column, and how finely they could be told apart."""

    ranks: list[int]  # 1 + the number of methods separably better; methods may share a rank
    smallest_gap: float  # smallest difference of values that was separable, NaN if none was
    pairs: int  # pairs of methods compared
    separable: int  # pairs whose paired difference interval leaves out 0


def tied_ranks(values: Sequence[float], replicates: Sequence[np.ndarray], level: float) -> Ranking:
    """Rank methods by their paired differences.

    The rank of a method is 1 plus the number of methods that are separably better than it. "Not separable" is not
    transitive: where A is better than C, and B can be told from neither, the ranks are A 1, B 1, C 2. Intervals are per
    pair and not adjusted for the number of pairs.
    """
    number = len(values)
    beaten, gaps = [0] * number, []
    for i in range(number):
        for j in range(i + 1, number):
            low, high = interval(replicates[i] - replicates[j], level)
            if low > 0:
                beaten[j] += 1
            elif high < 0:
                beaten[i] += 1
            else:
                continue
            gaps.append(abs(values[i] - values[j]))
    return Ranking([1 + b for b in beaten], min(gaps, default=float("nan")), number * (number - 1) // 2, len(gaps))
