"""Dice of binary masks from pixel counts: the one definition behind every segmentation number."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def dice_from_counts(
    tp: ArrayLike, predicted: ArrayLike, truth: ArrayLike, empty_score: float | None = 1.0
) -> NDArray[np.float64]:
    """Dice ``2 tp / (predicted + truth)`` of each image.

    Parameters
    ----------
    tp, predicted, truth : [N] pixel counts: in both masks, in the prediction, in the truth.
    empty_score : what an empty truth with an empty prediction scores; None leaves every image with an empty truth out of
        the mean by making it NaN ("positives only": average with ``numpy.nanmean``). An empty truth with a non-empty
        prediction scores 0.

    Returns
    -------
    [N] float64.
    """
    tp, predicted, truth = (np.asarray(x, dtype=np.float64) for x in (tp, predicted, truth))
    total = predicted + truth
    dice = np.divide(
        2 * tp, total, out=np.full_like(total, np.nan if empty_score is None else empty_score), where=total > 0
    )
    return np.where(truth == 0, np.nan, dice) if empty_score is None else dice
