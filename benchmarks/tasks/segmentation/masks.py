"""Predicted masks of a few test images, kept beside the predictions to be looked at; no number is made from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_masks(predictions: Path, fraction: int, draw: int, image_ids: Sequence[str], masks: np.ndarray) -> None:
    """Write masks (bool [n, S, S]) beside a predictions file; ids are the store's hashed ones."""
    path = _path(predictions, fraction, draw)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, image_id=np.array(image_ids, dtype=str), masks=masks)


def read_masks(predictions: Path, fraction: int, draw: int) -> dict[str, np.ndarray]:
    """Image id -> bool [S, S]; {} where none were kept."""
    path = _path(predictions, fraction, draw)
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as kept:
        return dict(zip(kept["image_id"].tolist(), kept["masks"], strict=True))


def _path(predictions: Path, fraction: int, draw: int) -> Path:
    return predictions.with_name(f"{predictions.stem}.f{fraction}.d{draw}.npz")
