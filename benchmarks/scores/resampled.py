"""A metric over all seeds and draws of a row, exactly and in the resamples of the patients: what every estimate is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.scores.metrics import Metric
from benchmarks.scores.predictions import Predictions

Choose = Callable[[Predictions, np.ndarray], np.ndarray]


def owners_of(file: Predictions, patients: pd.Index) -> np.ndarray:
    """[rows] whose each prediction is: its place in ``patients``."""
    owners: np.ndarray = patients.get_indexer(file.patients)[file.patient]
    return owners


def resampled(
    files: Sequence[Predictions],
    metric: Metric,
    args: Mapping[str, Any],
    fraction: int,
    draws: Sequence[int],
    patients: pd.Index,
    weights: np.ndarray,
    choose: Choose = lambda _, rows: rows,
) -> tuple[np.ndarray, np.ndarray]:
    """The metric [S, D] of S files and D draws, and in R resamples [S, D, R].

    Parameters
    ----------
    weights : [P, R] how often each of ``patients`` is drawn.
    choose : those of the rows of a draw that count.

    Raises
    ------
    Undefined : as :meth:`Metric.resample`.
    """
    shape = (len(files), len(draws))
    values, again = np.empty(shape), np.empty((*shape, weights.shape[1]))
    for s, file in enumerate(files):
        owners = owners_of(file, patients)
        for d, draw in enumerate(draws):
            rows = choose(file, file.groups[fraction, draw])
            values[s, d], again[s, d] = metric.resample(file.frame.take(rows), owners[rows], weights, dict(args))
    return values, again
