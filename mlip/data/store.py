"""The image store: every film decoded once to S x S grey, memory-mapped, beside one row of records each."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlip.data.catalogue import resolve
from mlip.data.decode import DecodeJob, decode_all, drop_rows, prepare
from mlip.data.privacy import hash_id, read_salt
from mlip.data.records import Reader, Record
from mlip.data.validation import validate_records
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.study import Study


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


def open_store(folder: Path) -> Store:
    """Open a finished store.

    Raises
    ------
    UserError : the folder is no complete store.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r")
        masks = np.load(folder / "masks.npy", mmap_mode="r") if (folder / "masks.npy").is_file() else None
        records = pd.read_parquet(folder / "records.parquet")
    except (OSError, ValueError) as error:
        raise UserError(f"is no complete image store ({error})", where=folder, fix="build it again") from None
    if not len(records) == len(images) == manifest["count"]:
        raise UserError("records and images differ in number", where=folder, fix="delete the folder and build it again")
    # Parquet's nested lists come back as arrays of arrays.
    boxes = [[[float(v) for v in box] for box in of_image] for of_image in records["boxes"]]
    categories = [list(names) for names in records["box_categories"]]
    records = records.assign(boxes=pd.Series(boxes, dtype=object), box_categories=pd.Series(categories, dtype=object))
    return Store(folder, images, masks, records, manifest)


def build_store(name: str, study: Study, workers: int) -> None:
    """Decode a data set into ``StudyPaths(study).data(name)``.

    Chunks of films are decoded by ``workers`` processes straight into the memory map, so memory does not grow with the
    data set. What is done is noted in ``<folder>.partial``: a build that was killed goes on where it stopped, and the
    finished folder appears in one rename.

    Images that cannot be used are listed in ``<folder>.unreadable.txt``.

    Raises
    ------
    UserError : the reader's check fails, or more images than ``datasets.<name>.max_corrupt`` cannot be decoded.
    """
    started = time.monotonic()
    reader, options = resolve(study, name)
    config, paths = study.datasets[name], StudyPaths(study)
    version = reader.verify(config.root, options)
    records = reader.records(config.root, options)
    validate_records(records, config.root, name)
    folder = paths.data(name)
    partial = folder.with_name(f"{folder.name}.partial")
    masked = np.array([bool(reader.mask_name) and r.mask is not None for r in records])
    mask_rows = np.where(masked, np.cumsum(masked) - 1, -1)
    job = DecodeJob(reader, partial, study.image_size, bool(masked.any()))
    done = prepare(job, records, int(masked.sum()), {"reader": config.reader, "version": version})
    outcome = decode_all(job, records, mask_rows, done, workers, name)

    failed = [i for i, row in enumerate(outcome) if "error" in row]
    listing = folder.with_name(f"{name}.unreadable.txt")
    _list_unreadable(listing, [(records[i].path, outcome[i]["error"]) for i in failed])
    if len(failed) > config.max_corrupt * len(records):
        raise UserError(
            f"lists {len(failed)} of {len(records)} images of {name} that cannot be used, the first: {outcome[failed[0]]['error']}",
            where=listing,
            fix=f"repair them, or raise datasets.{name}.max_corrupt to go on without them",
        )
    salt = read_salt(paths.salt)
    keep = [i for i, row in enumerate(outcome) if "error" not in row]
    if failed:
        mask_rows = drop_rows(job, keep, mask_rows)
    table = _table(reader, config.reader, records, outcome, keep, mask_rows, salt)
    pq.write_table(table, partial / "records.parquet")
    manifest = {
        "dataset": name,
        "reader": config.reader,
        "title": reader.title,
        "citation": reader.citation,
        "version": version,
        "size": study.image_size,
        "count": len(keep),
        "unreadable": [
            {"image_id": hash_id(f"{config.reader}/image", records[i].image_id, salt), "reason": outcome[i]["error"]}
            for i in failed
        ],
        "labels": list(reader.labels),
        "box_categories": list(reader.box_categories),
        "mask_name": reader.mask_name,
        "uncertainty": reader.uncertainty,
        "notes": reader.notes(config.root, options),
        "label_counts": _label_counts(table, reader.labels),
        "seconds": round(time.monotonic() - started, 1),
    }
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    for journal in ("key.json", "done.jsonl"):
        (partial / journal).unlink()
    if folder.exists():  # an older build, or the empty folder that the workflow engine makes
        shutil.rmtree(folder)
    partial.rename(folder)


def _list_unreadable(path: Path, failed: list[tuple[Path, str]]) -> None:
    """Files that cannot be used, for the owner's eyes: their names are raw identifiers, which errors and logs must not hold."""
    path.unlink(missing_ok=True)
    if failed:
        path.touch(mode=0o600)
        path.write_text("".join(f"{file}\t{reason}\n" for file, reason in failed))


def _table(
    reader: Reader,
    namespace: str,
    records: list[Record],
    outcome: list[dict[str, Any]],
    keep: list[int],
    mask_rows: np.ndarray,
    salt: bytes,
) -> pa.Table:
    """The rows of ``records.parquet``: hashed identifiers, boxes in stored pixels."""

    def boxes(i: int) -> list[list[float]]:
        at = outcome[i]
        return [
            [
                b.x * at["scale"] + at["left"],
                b.y * at["scale"] + at["top"],
                b.width * at["scale"],
                b.height * at["scale"],
            ]
            for b in records[i].boxes
        ]

    def hashed(kind: str, attribute: str) -> list[str]:
        return [hash_id(f"{namespace}/{kind}", getattr(records[i], attribute), salt) for i in keep]

    text = pa.string()
    columns: dict[str, pa.Array] = {
        "row": pa.array(range(len(keep)), pa.int64()),
        "image_id": pa.array(hashed("image", "image_id"), text),
        "patient_id": pa.array(hashed("patient", "patient_id"), text),
        "study_id": pa.array(hashed("study", "study_id"), text),
        "view": pa.array([records[i].view for i in keep], text),
        "official_split": pa.array([records[i].official_split for i in keep], text),
        "report": pa.array([records[i].report for i in keep], text),
    }
    for label in reader.labels:
        values = np.array([records[i].labels.get(label, np.nan) for i in keep], np.float32)
        columns[f"label.{label}"] = pa.array(values, pa.float32())  # NaN stays NaN, it is not null
    columns |= {
        "boxes": pa.array([boxes(i) for i in keep], pa.list_(pa.list_(pa.float32()))),
        "box_categories": pa.array([[b.category for b in records[i].boxes] for i in keep], pa.list_(text)),
        "mask_row": pa.array([int(mask_rows[i]) for i in keep], pa.int64()),
        "width": pa.array([outcome[i]["width"] for i in keep], pa.int64()),
        "height": pa.array([outcome[i]["height"] for i in keep], pa.int64()),
        "dhash": pa.array([outcome[i]["dhash"] for i in keep], pa.uint64()),
    }
    return pa.table(columns)


def _label_counts(table: pa.Table, labels: tuple[str, ...]) -> dict[str, dict[str, int]]:
    counts = {}
    for label in labels:
        values = table[f"label.{label}"].to_numpy()
        cases = {
            "positive": values == 1,
            "negative": values == 0,
            "uncertain": values == -1,
            "missing": np.isnan(values),
        }
        counts[label] = {k: int(v.sum()) for k, v in cases.items()}
    return counts
