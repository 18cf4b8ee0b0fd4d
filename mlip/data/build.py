"""Makes the image store: every film decoded once to S x S grey, memory-mapped, beside one row of records each."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlip.data.catalogue import namespace_of, resolve
from mlip.data.decode import HELD, ROW_BYTES, DecodeJob, decode_all, drop_rows, prepare
from mlip.data.privacy import hash_id, read_salt
from mlip.data.records import Box, Reader, Record
from mlip.data.space import room
from mlip.data.targets import FLAT, NO_BOX_LEFT, boxes_known, sound_boxes, words
from mlip.data.validation import demand_reports, validate_records
from mlip.errors import UserError
from mlip.log import logger
from mlip.paths import StudyPaths
from mlip.study import Study


def build_store(name: str, study: Study, workers: int, fingerprint: str = "", reports: bool = False) -> None:
    """Decode a data set into ``StudyPaths(study).data(name)``.

    Chunks of films are decoded by ``workers`` processes straight into the memory map, so memory does not grow with the
    data set. The disk space is reserved first. What is done is noted in ``<folder>.partial``: a build that was killed goes on
    where it stopped, and the finished folder appears in one rename.

    ``fingerprint`` is noted in the manifest; with ``reports`` a data set without any is refused before it is decoded.

    Images that cannot be used are listed in ``<folder>.unreadable.txt``. Boxes and masks that cannot be trained on are left
    out (:mod:`mlip.data.targets`); the manifest's ``findings`` and a warning count them.

    Raises
    ------
    UserError : the reader's check fails, there is no room on the disk, or more images than ``datasets.<name>.max_corrupt`` cannot be decoded.
    """
    started = time.monotonic()
    reader, options = resolve(study, name)
    config, paths = study.datasets[name], StudyPaths(study)
    version = reader.verify(config.root, options)
    records = reader.records(config.root, options)
    validate_records(records, config.root, name)
    if reports:
        demand_reports(records, config.root, name)
    folder = paths.data(name)
    partial = folder.with_name(f"{folder.name}.partial")
    masked = np.array([bool(reader.mask_name) and r.mask is not None for r in records])
    mask_rows = np.where(masked, np.cumsum(masked) - 1, -1)
    job = DecodeJob(reader, partial, study.image_size, bool(masked.any()))
    done = prepare(job, records, int(masked.sum()), {"reader": config.reader, "version": version})
    with room(partial.parent, len(records) * ROW_BYTES):  # the journal's
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
    salt, namespace = read_salt(paths.salt), namespace_of(study, name)
    keep = [i for i, row in enumerate(outcome) if "error" not in row]
    if not keep:
        raise UserError(f"no image of {name} can be used", where=listing, fix="download the data set again")
    unknown = [i for i in keep if outcome[i]["mask"]]
    mask_rows[unknown] = -1
    if failed or unknown:
        mask_rows = drop_rows(job, keep, mask_rows)
    sound = {i: sound_boxes(records[i].boxes, (outcome[i]["width"], outcome[i]["height"])) for i in keep}
    table = _table(reader, namespace, records, outcome, {i: boxes for i, (boxes, _) in sound.items()}, mask_rows, salt)
    findings = _findings(records, outcome, sound)
    manifest = {
        "dataset": name,
        "fingerprint": fingerprint,
        "reader": config.reader,
        "title": reader.title,
        "citation": reader.citation,
        "version": version,
        "size": study.image_size,
        "count": len(keep),
        "unreadable": [
            {"image_id": hash_id(f"{namespace}/image", records[i].image_id, salt), "reason": outcome[i]["error"]}
            for i in failed
        ],
        "labels": list(reader.labels),
        "box_categories": list(reader.box_categories),
        "mask_name": reader.mask_name,
        "uncertainty": reader.uncertainty,
        "notes": reader.notes(config.root, options),
        "label_counts": _label_counts(table, reader.labels),
        "findings": findings,
        "seconds": round(time.monotonic() - started, 1),
    }
    if reader.mask_name and not (partial / "masks.npy").is_file():
        # The workflow declares it for every reader that may give masks.
        np.save(partial / "masks.npy", np.zeros((0, study.image_size, study.image_size), np.uint8))
    (partial / HELD).unlink()
    with room(partial.parent, len(keep) * ROW_BYTES):
        pq.write_table(table, partial / "records.parquet")
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for journal in ("key.json", "done.jsonl"):
        (partial / journal).unlink(missing_ok=True)
    if folder.exists():  # an older build, or the empty folder that the workflow engine makes
        shutil.rmtree(folder)
    partial.rename(folder)
    if findings:
        logger.warning("%s: %s", name, words(findings))


def _findings(
    records: list[Record], outcome: list[dict[str, Any]], sound: dict[int, tuple[tuple[Box, ...], Counter[str]]]
) -> dict[str, int]:
    """How often the rules for grey values and targets (docs/datasets.md) dropped, cut or found something."""
    counts: Counter[str] = Counter()
    for i, (boxes, of_film) in sound.items():
        counts += of_film
        counts[NO_BOX_LEFT] += bool(records[i].boxes) and not boxes
        counts[FLAT] += outcome[i]["flat"]
        if outcome[i]["mask"]:
            counts[outcome[i]["mask"]] += 1
    return dict(sorted((+counts).items()))


def _list_unreadable(path: Path, failed: list[tuple[Path, str]]) -> None:
    """Files that cannot be used, for the owner's eyes: their names are raw identifiers, which errors and logs must not hold."""
    path.unlink(missing_ok=True)
    if failed:
        path.touch(mode=0o600)
        path.write_text("".join(f"{file}\t{reason}\n" for file, reason in failed), encoding="utf-8")


def _table(
    reader: Reader,
    namespace: str,
    records: list[Record],
    outcome: list[dict[str, Any]],
    sound: dict[int, tuple[Box, ...]],
    mask_rows: np.ndarray,
    salt: bytes,
) -> pa.Table:
    """The rows of ``records.parquet`` for the films with an entry in ``sound``, their boxes: hashed identifiers, boxes in stored
    pixels.
    """
    keep = list(sound)

    def boxes(i: int) -> list[list[float]]:
        at = outcome[i]
        return [
            [
                b.x * at["scale"] + at["left"],
                b.y * at["scale"] + at["top"],
                b.width * at["scale"],
                b.height * at["scale"],
            ]
            for b in sound[i]
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
        "sex": pa.array([records[i].sex for i in keep], text),
        "age": pa.array(np.array([records[i].age for i in keep], np.float32), pa.float32()),
        "official_split": pa.array([records[i].official_split for i in keep], text),
        "report": pa.array([records[i].report for i in keep], text),
    }
    for label in reader.labels:
        values = np.array([records[i].labels.get(label, np.nan) for i in keep], np.float32)
        columns[f"label.{label}"] = pa.array(values, pa.float32())  # NaN stays NaN, it is not null
    columns |= {
        "boxes": pa.array([boxes(i) for i in keep], pa.list_(pa.list_(pa.float32()))),
        "box_categories": pa.array([[b.category for b in sound[i]] for i in keep], pa.list_(text)),
        "boxes_known": pa.array([boxes_known(reader, records[i], sound[i]) for i in keep], pa.bool_()),
        "mask_row": pa.array([int(mask_rows[i]) for i in keep], pa.int64()),
        "width": pa.array([outcome[i]["width"] for i in keep], pa.int64()),
        "height": pa.array([outcome[i]["height"] for i in keep], pa.int64()),
        "flat": pa.array([outcome[i]["flat"] for i in keep], pa.bool_()),
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
