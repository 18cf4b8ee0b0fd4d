"""``mlip unpack``: an archive of ``mlip pack`` laid out again, its files and its cells checked."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from benchmarks.cells import COLUMNS, KEY, compute, write_cells
from benchmarks.plan import Plan, resolve
from benchmarks.report.build import build_tables
from benchmarks.report.made import MADE
from mlip import methods
from mlip.errors import UserError
from mlip.fingerprints import Fingerprint, Fingerprints
from mlip.run.drafts import complete
from mlip.run.pack import FORMAT, MANIFEST
from mlip.study import Strict, describe, parse_study

CELL = [*KEY, "method"]
ROUNDED = {"seconds": 0.11}  # cells.csv has one decimal of these, six of the others
CLOSE = 2e-6
AGAIN = "copy the archive again, or ask its author to pack it anew"


class Manifest(Strict):
    """``manifest.json`` of an archive."""

    format: int
    study: str
    title: str
    data_note: str
    commit: str
    machines: list[str]
    versions: list[str]
    commits: list[str]
    cells: dict[str, int]
    methods: list[str]
    predictions: dict[str, str]  # file -> fingerprint
    trainings: dict[str, dict[str, Any]]  # row/seed -> the parts of its fingerprint
    config: dict[str, Any]
    files: dict[str, str]  # file -> sha256


class PackedFingerprints(Fingerprints):
    """Of data that are elsewhere: nothing is read for them, and nothing is known of them."""

    def _of(self, name: tuple[Any, ...], parts: Any) -> Fingerprint:
        return Fingerprint("", "")


@dataclass(frozen=True)
class PackedPlan(Plan):
    """A study whose predictions and trainings count as today's where they are those that were packed."""

    manifest: Manifest

    def training(self, row: str, seed: int) -> Fingerprint:
        return Fingerprint(**self.manifest.trainings.get(f"{row}/{seed}", {"settings": "", "code": ""}))

    def evaluation(self, task: str, protocol: str, dataset: str, row: str, seed: int) -> Fingerprint:
        path = self.paths.predictions(task, protocol, dataset, row, seed).relative_to(self.paths.work)
        key = self.manifest.predictions.get(f"work/{self.study.study}/{path.as_posix()}", "")
        return Fingerprint(key, "", keeps=True)


def unpack(file: Path, folder: Path, pages: bool = False) -> Manifest:
    """Lay an archive out under a new folder and compute its cells again with this checkout's code.

    Parameters
    ----------
    pages : also write tables and leaderboard, as the study's own would be without its analyses.

    Raises
    ------
    UserError : the archive is damaged, holds what its manifest does not name, is of another format, has rows whose method
        folder is not here, or this checkout computes other cells from its predictions.
    """
    with complete(folder) as draft:
        manifest = _extract(file, draft)
        plan, packed = packed_plan(manifest, draft, file), draft / "results" / manifest.study
        with tempfile.TemporaryDirectory() as other:
            again = Path(other) / "cells.csv"
            write_cells(compute(plan).cells, again)
            _require_equal(pd.read_csv(packed / "cells.csv"), pd.read_csv(again), file, manifest)
        if pages:
            kept = {path: path.read_bytes() for path in (packed / "cells.csv", packed / MADE)}
            build_tables(plan)
            for path, content in kept.items():
                path.write_bytes(content)
    return manifest


def packed_plan(manifest: Manifest, folder: Path, where: Path) -> PackedPlan:
    """The plan of an unpacked archive; no data and no training is needed."""
    if lacking := sorted(set(manifest.methods) - set(methods.method_folders())):
        fix = f"put the folder{'s' * (len(lacking) > 1)} {', '.join(lacking)} under baselines/, as the archive's author did"
        raise UserError("has rows of methods that are not here", where=where, fix=fix)
    moved = {"work": str(folder / "work"), "results": str(folder / "results")}
    plan = resolve(parse_study({**manifest.config, **moved}, where=where), look=False)
    kept = {field.name: getattr(plan, field.name) for field in fields(Plan)}
    kept["fingerprints"] = PackedFingerprints(plan.study, plan.fingerprints.draws)
    return PackedPlan(**kept, manifest=manifest)


def _extract(file: Path, folder: Path) -> Manifest:
    """Write what the manifest names, after each file's sha256 was compared."""
    if not file.is_file():
        raise UserError("there is no such archive", where=file, fix="give a file of `mlip pack`")
    try:
        with tarfile.open(file, mode="r:gz") as archive:
            members = iter(archive)
            manifest = _manifest(archive, next(members, None), file)
            wanted = dict(manifest.files)
            for member in members:
                path = PurePosixPath(member.name)
                if member.name not in wanted or not member.isfile() or path.is_absolute() or ".." in path.parts:
                    raise UserError(f"holds {member.name!r}, which its manifest does not name", where=file, fix=AGAIN)
                content = _read(archive, member)
                if hashlib.sha256(content).hexdigest() != wanted.pop(member.name):
                    raise UserError(f"{member.name} is not what was packed (sha256)", where=file, fix=AGAIN)
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"cannot be read ({type(error).__name__}: {error})", where=file, fix=AGAIN) from None
    if wanted:
        raise UserError(f"lacks {len(wanted)} files, {next(iter(wanted))} first", where=file, fix=AGAIN)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def _manifest(archive: tarfile.TarFile, first: tarfile.TarInfo | None, file: Path) -> Manifest:
    if first is None or first.name != MANIFEST or not first.isfile():
        raise UserError(f"does not begin with {MANIFEST}", where=file, fix="give a file of `mlip pack`")
    try:
        raw = json.loads(_read(archive, first))
        if raw.get("format") != FORMAT:
            fix = f"use the version of commit {raw.get('commit', 'unknown')}"
            raise UserError(f"is of format {raw.get('format')}, this version reads {FORMAT}", where=file, fix=fix)
        return Manifest.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{MANIFEST}: {describe(error)}", where=file, fix=AGAIN) from None
    except (ValueError, AttributeError):
        raise UserError(f"{MANIFEST} is no JSON", where=file, fix=AGAIN) from None


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member)
    assert content is not None  # a regular file has content
    return content.read()


def _require_equal(packed: pd.DataFrame, again: pd.DataFrame, file: Path, manifest: Manifest) -> None:
    """Raise UserError where a cell with a value is another one, or there is one more or less. Reasons are not packed."""
    if lacking := sorted(set(COLUMNS) - set(packed.columns)):
        raise UserError(f"cells.csv lacks the columns {', '.join(lacking)}", where=file, fix=AGAIN)
    ok = [cells[cells["status"] == "ok"].set_index(CELL) for cells in (packed, again)]
    wrong = {*ok[0].index.symmetric_difference(ok[1].index)}
    shared = ok[0].index.intersection(ok[1].index)
    a, b = ok[0].loc[shared], ok[1].loc[shared]
    for column in (c for c in COLUMNS if c not in (*CELL, "reason", "status")):
        x, y = (f[column].map({True: 1.0, False: 0.0, "True": 1.0, "False": 0.0}) if column == "above_controls" else f[column] for f in (a, b))  # fmt: skip
        close = np.isclose(x.astype(float), y.astype(float), rtol=0, atol=ROUNDED.get(column, CLOSE), equal_nan=True)
        wrong |= {*shared[~close]}
    if wrong:
        first = sorted(wrong, key=str)[:3]
        shown = "; ".join(" ".join(map(str, cell)) for cell in first)
        fix = f"compute them with the code of commit {manifest.commit}; if they differ there too, ask its author"
        raise UserError(f"{len(wrong)} cells are not what its predictions say ({shown})", where=file, fix=fix)
