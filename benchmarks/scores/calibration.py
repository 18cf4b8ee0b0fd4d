"""Whether predicted probabilities are frequencies: Brier score and expected calibration error, both the lower the better.

Mean over labels, each label against all others. Brier (1950): mean squared difference of probability and truth. Expected
calibration error (Naeini, Cooper & Hauskrecht 2015): over ``BINS`` bins of equal width, the differences of mean probability
and frequency, weighted by how many predictions fall into each.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.scores.metrics import Metric, by_label
from benchmarks.scores.weighted import Statistic, mean, ratio

BINS = 15


def _brier(frame: pd.DataFrame, units: np.ndarray, args: object) -> Statistic:
    return mean([ratio(rows, (p - y) ** 2, np.ones(len(y))) for _, y, p, rows in by_label(frame, units)])


def _calibration_error(frame: pd.DataFrame, units: np.ndarray, args: object) -> Statistic:
    return mean([_of_label(y, p, rows) for _, y, p, rows in by_label(frame, units)])


def _of_label(y: np.ndarray, p: np.ndarray, units: np.ndarray) -> Statistic:
    place = np.clip(np.ceil(p * BINS).astype(np.int64) - 1, 0, BINS - 1)  # bins are open on the left

    def statistic(weights: np.ndarray) -> np.ndarray:
        shape = (BINS, len(weights))
        off = sparse.csr_matrix((p - y, (place, units)), shape=shape) @ weights  # [BINS, R]
        drawn = np.bincount(units, minlength=len(weights)) @ weights
        return np.divide(np.abs(off).sum(axis=0), drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)

    return statistic


_READS = ("image_id", "patient_id", "label", "y", "p")
CALIBRATION = {"Brier": Metric(_READS, _brier), "ECE": Metric(_READS, _calibration_error)}
