"""Average precision over pixels from histograms of their scores."""

from __future__ import annotations

import numpy as np


def pixel_average_precision(on_true: np.ndarray, on_other: np.ndarray) -> np.ndarray:
    """``sum_b (recall_b - recall_b-1) precision_b`` over the bins b, as torchmetrics' BinaryAveragePrecision with given thresholds.

    Parameters
    ----------
    on_true, on_other : [bins, R] (weighted) numbers of true and of other pixels in each bin of the score, the highest bin first.

    Returns
    -------
    [R] float, NaN without a true pixel.
    """
    tp, fp = (np.cumsum(h, axis=0, dtype=float) for h in (on_true, on_other))
    total = tp[-1]
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
    gained = (np.diff(tp, axis=0, prepend=0) * precision).sum(axis=0)
    return np.divide(gained, total, out=np.full(total.shape, np.nan), where=total > 0)
