"""An image store as everything above reads it: films as one memory map, beside one row of records each.

``mlip/data/build.py`` makes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlip.errors import UserError


@dataclass(frozen=True)
class Store:
    """An opened store. ``images`` uint8 [N, S, S] and ``masks`` uint8 {0, 1} [M, S, S] are memory-mapped, read-only."""

    folder: Path
    images: np.ndarray
    masks: np.ndarray | None
    records: pd.DataFrame
    manifest: dict[str, Any]

    @property
    def labels(self) -> list[str]:
        return list(self.manifest["labels"])

    def label(self, name: str) -> np.ndarray:
        """float32 [N]: 1, 0, -1 uncertain, NaN unknown."""
        return self.records[f"label.{name}"].to_numpy()

    @property
    def flat_rows(self) -> np.ndarray:
        """int64 [n]: rows of films of one grey level."""
        return np.flatnonzero(self.records["flat"].to_numpy(bool))


def open_store(folder: Path) -> Store:
    """Open a finished store.

    Raises
    ------
    UserError : the folder is no complete store.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r")
        masks = np.load(folder / "masks.npy", mmap_mode="r") if (folder / "masks.npy").is_file() else None
        records = pd.read_parquet(folder / "records.parquet")
        masks = masks if masks is not None and len(masks) else None
    except (OSError, ValueError) as error:
        raise UserError(f"is no complete image store ({error})", where=folder, fix="build it again") from None
    if not len(records) == len(images) == manifest["count"]:
        raise UserError("records and images differ in number", where=folder, fix="delete the folder and build it again")
    if not {"boxes_known", "flat", "sex", "age"} <= set(records):
        raise UserError("was built by an older version", where=folder, fix="delete the folder and build it again")
    # Parquet's nested lists come back as arrays of arrays.
    boxes = [[[float(v) for v in box] for box in of_image] for of_image in records["boxes"]]
    categories = [list(names) for names in records["box_categories"]]
    records = records.assign(boxes=pd.Series(boxes, dtype=object), box_categories=pd.Series(categories, dtype=object))
    return Store(folder, images, masks, records, manifest)
