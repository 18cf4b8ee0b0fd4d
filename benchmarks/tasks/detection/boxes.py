"""Boxes of one image, true or found, as plain arrays, and the COCO results format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.tasks.shared.augment import Augmentation, augment_with_boxes
from mlip.errors import UserError


@dataclass
class ImageBoxes:
    """n boxes of one image."""

    boxes: np.ndarray  # [n, 4] float64: x, y, width, height in stored pixels
    categories: np.ndarray  # [n] int64, index into the data set's box categories
    scores: np.ndarray | None = None  # [n] float64 of found boxes

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def corners(self) -> np.ndarray:
        """[n, 4] x0, y0, x1, y1."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], axis=1)


def move(
    films: np.ndarray, truth: Sequence[ImageBoxes], augmentation: Augmentation | None
) -> tuple[np.ndarray, list[ImageBoxes]]:
    """Training films uint8 [B, S, S] with their true boxes (:func:`augment_with_boxes`)."""
    if augmentation is None:
        return films, list(truth)
    films, moved = augment_with_boxes(films, [t.corners for t in truth], augmentation)
    return films, [
        ImageBoxes(np.concatenate([c[:, :2], c[:, 2:] - c[:, :2]], axis=1), t.categories[left])
        for t, (c, left) in zip(truth, moved, strict=True)
    ]


def read_truth(records: pd.DataFrame, categories: Sequence[str]) -> list[ImageBoxes]:
    """The true boxes of every image of a store, in its row order.

    Raises
    ------
    UserError : a box has a category that the manifest does not list, or no area.
    """
    index = {name: k for k, name in enumerate(categories)}
    truth = []
    for boxes, names in zip(records["boxes"], records["box_categories"], strict=True):
        if unknown := set(names) - set(index):
            raise UserError(
                f"a box has the category {sorted(unknown)}, the manifest lists {list(categories)}",
                where="records.parquet",
                fix="delete the data set's folder under work/, snakemake reads it anew",
            )
        array = np.array([list(b) for b in boxes], dtype=np.float64).reshape(-1, 4)
        if not (np.isfinite(array).all() and (array[:, 2:] > 0).all()):
            raise UserError(
                "a box has no area or is not finite, which the store does not write",
                where="records.parquet",
                fix="delete the data set's folder under work/, snakemake reads it anew",
            )
        truth.append(ImageBoxes(array, np.array([index[n] for n in names], dtype=np.int64)))
    return truth


def coco_results(image_ids: Sequence[str], found: Sequence[ImageBoxes]) -> list[dict[str, Any]]:
    """Detections in the COCO results format, in full precision: categories are numbered from 1 in the manifest's order."""
    results = []
    for image_id, image in zip(image_ids, found, strict=True):
        assert image.scores is not None
        for box, category, score in zip(image.boxes, image.categories, image.scores, strict=True):
            place = {"image_id": str(image_id), "category_id": int(category) + 1}
            results.append({**place, "bbox": [float(v) for v in box], "score": float(score)})
    return results
