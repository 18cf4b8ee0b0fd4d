"""``mlip pack``: a study's predictions and cells as one archive that holds nothing of a patient but hashes.

The archive has the layout of a checkout (``results/<study>``, ``work/<study>``) and a ``manifest.json``: the configuration
without folders of the machine, by what each file was made, and the sha256 of each. The same files give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmarks.cells import compute, write_cells
from benchmarks.report.made import MADE, card_files, made_json, makers, public
from benchmarks.scores.predictions import read_predictions
from mlip.errors import UserError
from mlip.pretraining.provenance import commit

if TYPE_CHECKING:
    from benchmarks.plan import Plan
    from mlip.fingerprints import Fingerprint

FORMAT = 1
MANIFEST = "manifest.json"
HASHED = re.compile(r"[0-9a-f]{16}")  # what mlip/data/privacy.py makes of an identifier
WORDS = {"label"}  # text columns of predictions that name no film and no patient


def pack(plan: Plan, file: Path) -> dict[str, Any]:
    """Write the archive, complete or not at all; its manifest.

    The cells are computed from the predictions that go in, so that whoever unpacks it can compute them again. Of failed
    jobs the status is kept and the reason is not: it may name a file.

    Raises
    ------
    UserError : no cell has a value, or predictions hold something other than hashed identifiers.
    """
    study, predictions = plan.study, dict(_predictions(plan))
    cells = compute(plan).cells
    if not (cells["status"] == "ok").any():
        raise UserError(f"no cell of {study.study} has a value", where=plan.paths.work, fix="run the study first")
    cells.loc[cells["status"] == "failed", "reason"] = "see the log of the job where it ran"
    members: dict[str, Path | bytes] = {
        f"results/{study.study}/cells.csv": _csv(cells),
        f"results/{study.study}/{MADE}": made_json(plan).encode(),
    }
    members |= {name: path for name, (path, _) in predictions.items()}
    members |= dict(_cards(plan))
    found: dict[str, Any] = {
        "format": FORMAT,
        "study": study.study,
        "title": study.title,
        "data_note": study.note,
        "commit": commit(),
        **makers(plan),
        "cells": {status: int(count) for status, count in cells["status"].value_counts().items()},
        "methods": sorted({entry.folder.name for entry in plan.rows.values()}),
        "predictions": {name: key for name, (_, key) in sorted(predictions.items())},
        "trainings": {
            f"{row}/{seed}": _parts(plan.training(row, seed)) for row, e in plan.rows.items() for seed in e.seeds(study)
        },
        "config": portable(plan),
        "files": {name: _sha256(content) for name, content in sorted(members.items())},
    }
    members[MANIFEST] = (json.dumps(found, indent=1, sort_keys=True) + "\n").encode()
    _write(members, file)
    return found


def portable(plan: Plan) -> dict[str, Any]:
    """The resolved study with its rows by name and without folders of this machine, valid on any other."""
    study = plan.study
    found = public(study)
    for name, dataset in found["datasets"].items():
        if dataset["twin"] is None:
            dataset["root"] = name
    variants = study.methods.variants
    found["methods"]["include"] = [name for name in (*plan.rows, *plan.broken) if name not in variants]
    found["methods"]["exclude"] = []
    return found


def _predictions(plan: Plan) -> Iterator[tuple[str, tuple[Path, str]]]:
    """Name in the archive, file and fingerprint of the predictions that today's code and configuration make."""
    for e in plan.evaluations:
        cell = (e.task, e.protocol, e.dataset, e.row, e.seed)
        path, key = plan.paths.predictions(*cell), plan.evaluation(*cell).key
        if not path.is_file():
            continue
        frame, meta = read_predictions(path)
        if meta.get("fingerprint") != key:
            continue
        _require_hashed(frame, path)
        yield f"work/{plan.study.study}/{path.relative_to(plan.paths.work).as_posix()}", (path, key)


def _require_hashed(frame: pd.DataFrame, path: Path) -> None:
    """Raise UserError where predictions hold an identifier that is no hash, or a text that might be one."""
    fix = "an own task must write the store's hashed image_id and patient_id, and no other text than labels"
    for column in ("image_id", "patient_id"):
        raw = ~frame[column].astype(str).str.fullmatch(HASHED.pattern)
        if raw.any():
            raise UserError(f"{int(raw.sum())} values of {column} are no hashes", where=path, fix=fix)
    texts = set(frame.select_dtypes(["object", "string", "category"]).columns) - {"image_id", "patient_id", *WORDS}
    if named := sorted(c for c in texts if any(isinstance(value, str) for value in frame[c])):
        raise UserError(f"holds text in {', '.join(named)}", where=path, fix=fix)


def _cards(plan: Plan) -> Iterator[tuple[str, Path]]:
    for row in plan.rows:
        for path in card_files(plan, row):
            yield f"work/{plan.study.study}/{path.relative_to(plan.paths.work).as_posix()}", path


def _parts(fingerprint: Fingerprint) -> dict[str, Any]:
    return {"settings": fingerprint.settings, "code": fingerprint.code, "keeps": fingerprint.keeps}


def _csv(cells: pd.DataFrame) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.csv"
        write_cells(cells, path)
        return path.read_bytes()


def _sha256(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(members: dict[str, Path | bytes], file: Path) -> None:
    """A tar.gz without times and owners, the manifest first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with (
            draft.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name in sorted(members, key=lambda n: (n != MANIFEST, n)):
                content = members[name]
                data = content if isinstance(content, bytes) else content.read_bytes()
                about = tarfile.TarInfo(name)
                about.size, about.mode = len(data), 0o644
                archive.addfile(about, io.BytesIO(data))
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
