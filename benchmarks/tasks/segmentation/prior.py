"""The mean-mask control: where the finding usually is, without looking at the image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def mean_mask(masks: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the non-empty training masks, cut at the level with the best mean Dice on those very masks.

    Every level that occurs is tried, at most 50 of them. Without a non-empty mask nothing is predicted.

    Parameters
    ----------
    masks : uint8 [M, S, S].
    rows : rows of ``masks`` to learn from.

    Returns
    -------
    bool [S, S], and the mean itself: float [S, S] in [0, 1].
    """
    mean = np.zeros(masks.shape[1:])
    count = 0
    for chunk in _positive(masks, rows):
        mean += chunk.sum(axis=0)
        count += len(chunk)
    if not count:
        return np.zeros(masks.shape[1:], dtype=bool), mean
    mean /= count
    levels = np.unique(np.quantile(mean[mean > 0], np.linspace(0, 1, 50), method="lower"))
    candidates = mean >= levels[:, None, None]
    total = np.zeros(len(levels))
    flat = candidates.reshape(len(levels), -1).astype(np.float32)
    sizes = flat.sum(axis=1)
    for chunk in _positive(masks, rows):
        own = chunk.reshape(len(chunk), -1).astype(np.float32)
        total += (2 * own @ flat.T / (own.sum(axis=1)[:, None] + sizes)).sum(axis=0)
    return candidates[int(total.argmax())], mean


def _positive(masks: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), 256):
        chunk = np.asarray(masks[rows[start : start + 256]])
        yield chunk[chunk.any(axis=(1, 2))]
