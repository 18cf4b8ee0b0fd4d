"""Is the data of a study there and readable? Asked before hours are spent on it."""

from __future__ import annotations

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mlip.data.records import Reader, Record
from mlip.data.store import resolve
from mlip.errors import UserError
from mlip.seeding import generator
from mlip.study import Study

State = Literal["ready", "will be generated", "damaged", "missing"]
_COLOURS: dict[str, str] = {"ready": "green", "will be generated": "cyan", "damaged": "red", "missing": "red"}


@dataclass
class DatasetHealth:
    """What the doctor found for one data set."""

    name: str
    reader: str
    root: str
    state: State
    version: str = ""
    counts: dict[str, int] = field(default_factory=dict)  # images, patients, reports, boxes, masks, official parts
    sampled: int = 0
    missing: int = 0  # of the sampled images, files that are not there
    unreadable: int = 0  # of the sampled images, files that cannot be decoded
    problem: str = ""
    next_step: str = ""


@dataclass
class DoctorReport:
    study: str
    datasets: list[DatasetHealth]

    @property
    def ok(self) -> bool:
        """Whether the study can run as configured."""
        return all(d.state in ("ready", "will be generated") for d in self.datasets)

    def to_json(self) -> str:
        return json.dumps(
            {"study": self.study, "ok": self.ok, "datasets": [asdict(d) for d in self.datasets]}, indent=1
        )


def doctor(study: Study, sample: int = 1000) -> DoctorReport:
    """Examine every data set of the study: tables, counts, and up to ``sample`` decoded images each.

    Problems are reported, not raised.
    """
    return DoctorReport(study.study, [_examine(study, name, sample) for name in study.datasets])


def precheck(study: Study) -> None:
    """Fail now rather than after hours: readers and options of all data sets, folder and tables of those not generated.

    Raises
    ------
    UserError : the first thing that is wrong.
    """
    for name, config in study.datasets.items():
        reader, options = resolve(study, name)
        if not _generated(study, name):
            if not config.root.is_dir():
                raise UserError(f"the data set {name} is not there", where=config.root, fix=_obtain(reader, name))
            reader.check(config.root, options)


def render(report: DoctorReport) -> Group:
    """A table for the terminal, and under it what to do next."""
    table = Table(title=f"Data of the study {report.study}")
    for column in ("data set", "reader", "state", "version", "images", "patients", "sampled", "missing", "unreadable"):
        table.add_column(
            column, justify="right" if column in ("images", "patients", "sampled", "missing", "unreadable") else "left"
        )
    for d in report.datasets:
        numbers = [d.counts.get("images"), d.counts.get("patients"), d.sampled, d.missing, d.unreadable]
        shown = ["" if n is None or not d.counts else f"{n:,}" for n in numbers]
        table.add_row(d.name, d.reader, Text(d.state, style=_COLOURS[d.state]), d.version, *shown)
    steps = [
        Text(f"{d.name}: {d.problem + '. ' if d.problem else ''}{d.next_step}") for d in report.datasets if d.next_step
    ]
    return Group(table, *steps)


def _generated(study: Study, name: str) -> bool:
    """Whether the study's own twin writes this data set's folder."""
    if study.twin is None:
        return False
    root = study.datasets[name].root.resolve()
    return any(n in study.datasets and study.datasets[n].root.resolve() == root for n in study.twin.datasets)


def _obtain(reader: Reader, name: str) -> str:
    return f"obtain {reader.title} ({reader.access}) and set datasets.{name}.root to its folder"


def _examine(study: Study, name: str, sample: int) -> DatasetHealth:
    config = study.datasets[name]
    health = DatasetHealth(name, config.reader, str(config.root), "missing")
    try:
        reader, options = resolve(study, name)
        if not config.root.is_dir():
            if _generated(study, name):
                health.state, health.next_step = (
                    "will be generated",
                    "nothing to do: the study writes it from virtual patients",
                )
            else:
                health.problem, health.next_step = f"{config.root} does not exist", _obtain(reader, name)
            return health
        health.state = "damaged"
        health.version = reader.check(config.root, options)
        records = reader.records(config.root, options)
    except UserError as error:
        health.problem, health.next_step = str(error.args[0]).split(". Fix: ")[0], error.fix or "see docs/datasets.md"
        return health
    health.counts = _counts(records)
    if not records:
        health.problem, health.next_step = (
            "no image is left after the options were applied",
            f"change datasets.{name}.options",
        )
        return health
    _sample(reader, records, sample, health)
    bad = health.missing + health.unreadable
    if bad > config.max_corrupt * health.sampled:
        health.next_step = f"complete the download, or raise datasets.{name}.max_corrupt (now {config.max_corrupt:g})"
    else:
        health.state = "ready"
    return health


def _counts(records: list[Record]) -> dict[str, int]:
    parts = Counter(r.official_split for r in records if r.official_split)
    return {
        "images": len(records),
        "patients": len({r.patient_id for r in records}),
        "reports": sum(bool(r.report.strip()) for r in records),
        "boxes": sum(len(r.boxes) for r in records),
        "masks": sum(r.mask is not None for r in records),
        **{f"official {part}": count for part, count in sorted(parts.items())},
    }


def _sample(reader: Reader, records: list[Record], size: int, health: DatasetHealth) -> None:
    """Decode up to ``size`` images spread over the data set; the first problem is named."""
    rng = generator("doctor", health.name)
    rows = np.sort(rng.choice(len(records), min(size, len(records)), replace=False))

    def attempt(row: int) -> UserError | None:
        try:
            reader.load_image(records[row])
        except UserError as error:
            return error
        return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # decoders release the interpreter lock
        problems = list(pool.map(attempt, rows.tolist()))
    failed = [(records[row], error) for row, error in zip(rows, problems, strict=True) if error is not None]
    health.sampled = len(rows)
    health.missing = sum(not record.path.is_file() for record, _ in failed)
    health.unreadable = len(failed) - health.missing
    if failed:
        health.problem = f"{failed[0][0].path} {failed[0][1].problem}"
