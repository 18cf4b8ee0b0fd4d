"""Stores and splits made by hand, in the format that ``mlip/data/build.py`` and ``mlip/data/division.py`` write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlip.data.division import write_splits


def write_store(
    folder: Path,
    images: np.ndarray,
    *,
    reader: str,
    labels: Mapping[str, np.ndarray] | None = None,
    reports: Sequence[str] | None = None,
    patients: np.ndarray | None = None,
    studies: np.ndarray | None = None,
    views: Sequence[str] | None = None,
    boxes: Sequence[Sequence[Sequence[float]]] | None = None,
    of_boxes: Sequence[Sequence[str]] | None = None,
    box_categories: Sequence[str] = (),
    masks: np.ndarray | None = None,
    mask_row: np.ndarray | None = None,
) -> pd.DataFrame:
    """Write ``images`` [N, S, S] and what is known of them; ``of_boxes`` names the category of each box.

    Each film is of a patient and a study of its own unless numbers are given. Returns the identifiers of the rows.
    """
    count, size, labels = len(images), images.shape[1], labels or {}
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    if masks is not None:
        np.save(folder / "masks.npy", masks)

    def names(numbers: np.ndarray | None) -> list[str]:
        return [f"{n:016x}" for n in (np.arange(count) if numbers is None else numbers)]

    text = pa.string()
    columns = {
        "row": pa.array(range(count), pa.int64()),
        "image_id": pa.array(names(None), text),
        "patient_id": pa.array(names(patients), text),
        "study_id": pa.array(names(studies), text),
        "view": pa.array(views or ["PA"] * count, text),
        "sex": pa.array([""] * count, text),
        "age": pa.array(np.full(count, np.nan, np.float32), pa.float32()),
        "official_split": pa.array([""] * count, text),
        "report": pa.array(reports or [""] * count, text),
        **{f"label.{name}": pa.array(np.asarray(y, np.float32), pa.float32()) for name, y in labels.items()},
        "boxes": pa.array(boxes or [[]] * count, pa.list_(pa.list_(pa.float32()))),
        "box_categories": pa.array(of_boxes or [[]] * count, pa.list_(text)),
        "boxes_known": pa.array([True] * count, pa.bool_()),
        "mask_row": pa.array(np.full(count, -1) if mask_row is None else mask_row, pa.int64()),
        "width": pa.array([size] * count, pa.int64()),
        "height": pa.array([size] * count, pa.int64()),
        "flat": pa.array([False] * count, pa.bool_()),
        "dhash": pa.array(range(count), pa.uint64()),
    }
    table = pa.table(columns)
    pq.write_table(table, folder / "records.parquet")
    manifest = {
        "dataset": folder.name, "reader": reader, "version": "test", "size": size, "count": count, "unreadable": [],
        "labels": list(labels), "box_categories": list(box_categories), "mask_name": "" if masks is None else "square",
        "label_counts": {name: int((np.asarray(y) == 1).sum()) for name, y in labels.items()}, "seconds": 0.0,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return table.select(["row", "image_id", "patient_id"]).to_pandas()


def divide(path: Path, rows: pd.DataFrame, part: np.ndarray | Sequence[str], draws: Sequence[np.ndarray]) -> None:
    """Write splits: the part of each of ``rows``, and in ``draws`` the smallest fraction that holds it (0 = no training)."""
    table = rows.assign(part=part, **{f"draw{k}": draw for k, draw in enumerate(draws)})
    write_splits(table.reset_index(drop=True), path, "strict", [], "")
