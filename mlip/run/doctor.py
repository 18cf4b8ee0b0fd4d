"""Is the data of a study there and readable? Asked before hours are spent on it."""

from __future__ import annotations

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.plan import check_block, check_names, generated, how_to_obtain, resolve
from mlip.data.catalogue import resolve as resolve_reader
from mlip.data.records import Reader, Record
from mlip.data.targets import examine, judge_tables, words
from mlip.data.validation import has_report, validate_records
from mlip.errors import UserError
from mlip.methods import entries
from mlip.run.estimate import Cost, estimate, lines_of
from mlip.seeding import generator
from mlip.study import Study, parse_study

State = Literal["ready", "will be generated", "damaged", "missing"]
_LOOK: dict[str, Any] = {"box": None, "pad_edge": False, "title_justify": "left", "header_style": "bold"}
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
    complete: dict[str, int] = field(default_factory=dict)  # counts of the whole official release, where known
    positives: dict[str, int] = field(default_factory=dict)  # images by label that is positive
    notes: list[str] = field(default_factory=list)  # what the reader says about these records
    trainable: bool = False  # whether a report has a sentence to train on

    @property
    def usable(self) -> bool:
        return self.state in ("ready", "will be generated")


@dataclass
class Reach:
    """Whether the table of one task on one data set can be computed with what is there, and why not."""

    task: str
    dataset: str
    obstacle: str = ""


@dataclass
class DoctorReport:
    study: str
    datasets: list[DatasetHealth]
    tables: list[Reach]
    problem: str = ""  # of the study file itself: an unknown method, task or protocol
    cost: Cost | None = None  # where the study can be worked out
    cost_notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the study can run as configured."""
        return not self.problem and all(d.usable for d in self.datasets) and not any(t.obstacle for t in self.tables)

    def to_json(self) -> str:
        return json.dumps({"ok": self.ok, **asdict(self)}, indent=1)


def doctor(study: Study, sample: int = 1000) -> DoctorReport:
    """Examine every data set of the study (tables, counts, up to ``sample`` decoded images each) and which of the study's
    tables can be computed.

    Problems are reported, not raised.
    """
    datasets = [_examine(study, name, sample) for name in study.datasets]
    report = DoctorReport(study.study, datasets, *_tables(study, {d.name: d for d in datasets}))
    try:
        report.cost = estimate(resolve(study, look=False))
        report.cost_notes = lines_of(report.cost, study)
    except UserError:  # what is wrong with the study is said above
        pass
    return report


def examine_folder(reader: str, root: Path, sample: int = 1000) -> DatasetHealth:
    """Examine one folder in the layout of a reader, without a study."""
    encoders = {"cnn": {"name": "resnet"}, "vit": {"name": "vit"}, "text": {}}
    raw = {"study": "folder", "title": "", "data_note": "", "datasets": {reader: {"reader": reader, "root": str(root)}}}
    study = parse_study({**raw, "encoders": encoders, "pretrain": {"datasets": [reader]}, "tasks": {}}, where=root)
    return _examine(study, reader, sample)


def render(report: DoctorReport, console: Console | None = None) -> None:
    """Print for people: the data sets, which tables can be computed, and what to do next."""
    console = console or Console()
    _render_data(report.datasets, f"Data of the study {report.study}", console)
    tables = Table("task", "can be computed on", "cannot", title="Tables of the study", **_LOOK)
    for task in dict.fromkeys(t.task for t in report.tables):
        by_obstacle: dict[str, list[str]] = {}
        for reach in report.tables:
            if reach.task == task:
                by_obstacle.setdefault(reach.obstacle, []).append(reach.dataset)
        reached = ", ".join(by_obstacle.pop("", []))
        tables.add_row(task, reached, "; ".join(f"{', '.join(names)}: {why}" for why, names in by_obstacle.items()))
    console.print(tables, "")
    if report.problem:
        console.print(Text(report.problem, style="red"), soft_wrap=True)
    _render_notes(report.datasets, console)
    if report.cost:
        _render_cost(report.cost, report.cost_notes, console)
    verdict = ("The study can run as configured.", "green") if report.ok else ("The study cannot run yet.", "red")
    console.print(Text(*verdict))


def render_folder(health: DatasetHealth, console: Console | None = None) -> None:
    """Print what was found in one folder."""
    console = console or Console()
    _render_data([health], f"Data in {health.root}", console)
    _render_notes([health], console)


def _render_data(datasets: list[DatasetHealth], title: str, console: Console) -> None:
    data = Table(title=title, padding=(0, 1, 0, 0), **_LOOK)
    for column in ("data set", "state", "version"):
        data.add_column(column, no_wrap=True)
    for column in ("films", "of", "patients"):
        data.add_column(column, no_wrap=True, justify="right")
    data.add_column("with", min_width=13)
    data.add_column("decoded", no_wrap=True)
    for d in datasets:
        numbers = (d.counts.get("images"), d.complete.get("images"), d.counts.get("patients"))
        held = ", ".join(f"{d.counts[kind]:,} {kind}" for kind in ("reports", "boxes", "masks") if d.counts.get(kind))
        bad = d.missing + d.unreadable
        sampled = f"{d.sampled:,} {f'but {bad}' if bad else 'good'}" if d.sampled else ""
        shown = [f"{n:,}" if n is not None else "" for n in numbers]
        data.add_row(d.name, Text(d.state, style=_COLOURS[d.state]), d.version, *shown, held, sampled)
    console.print(data, "")
    if any(d.complete for d in datasets):
        console.print("`of`: the complete official release. Fewer films: a part of it, or virtual patients.\n")


def _render_notes(datasets: list[DatasetHealth], console: Console) -> None:
    for d in datasets:
        for note in d.notes:
            console.print(Text(f"{d.name}: {note}"), soft_wrap=True)
        if d.problem or d.next_step:
            console.print(Text(f"{d.name}: {'; '.join(filter(None, (d.problem, d.next_step)))}"), soft_wrap=True)


def _render_cost(cost: Cost, notes: list[str], console: Console) -> None:
    table = Table(title="Cost of the whole study", padding=(0, 1, 0, 0), **_LOOK)
    table.add_column("stage")
    for column in ("jobs", "cores", "hours without a GPU", "GPU hours", "disk, GB", "memory, GB"):
        table.add_column(column, justify="right")
    for stage in cost.stages:
        on_gpu = "" if stage.gpu_hours is None else f"{stage.gpu_hours:,.1f}"
        numbers = (f"{stage.jobs:,}", str(stage.cores), f"{stage.hours:,.1f}", on_gpu, f"{stage.disk_gb:,.1f}")
        table.add_row(stage.stage, *numbers, f"{stage.memory_gb:,.1f}")
    console.print(table, "")
    for note in notes:
        console.print(Text(note), soft_wrap=True)


def _tables(study: Study, health: dict[str, DatasetHealth]) -> tuple[list[Reach], str]:
    """Each task on each of its data sets, and what is wrong with the study file itself."""
    reach: dict[tuple[str, str], Reach] = {}
    try:
        check_names(study)
        rows, _ = entries(study)
    except UserError as error:
        return [], str(error)
    problem = ""
    unready: dict[str, str] = {name: health[name].state for name in study.pretrain.datasets if not health[name].usable}
    if any(entry.trained for entry in rows.values()):
        silent = [n for n in study.pretrain.datasets if health[n].state == "ready" and not health[n].trainable]
        unready |= dict.fromkeys(silent, "has no reports")
    for task in study.tasks:
        for protocol, name in study.tasks[task].pairs:
            at = reach.setdefault((task, name), Reach(task, name))
            try:
                check_block(study, task, protocol, name)
            except UserError as error:
                at.obstacle = at.obstacle or str(error)
            if not at.obstacle and not health[name].usable:
                at.obstacle = f"data {health[name].state}"
            if not at.obstacle and unready:
                at.obstacle = f"nothing to pre-train on: {', '.join(f'{n} {why}' for n, why in unready.items())}"
    if not any(at.obstacle for at in reach.values()):
        try:
            resolve(study, look=False)
        except UserError as error:
            problem = str(error)
    return list(reach.values()), problem


def _examine(study: Study, name: str, sample: int) -> DatasetHealth:
    config = study.datasets[name]
    health = DatasetHealth(name, config.reader, str(config.root), "missing")
    try:
        reader, options = resolve_reader(study, name)
        if not config.root.is_dir():
            if generated(study, name):
                health.state, health.next_step = (
                    "will be generated",
                    "nothing to do: the study writes it from virtual patients",
                )
            else:
                health.problem, health.next_step = (
                    f"{config.root} does not exist",
                    how_to_obtain(reader, config.reader, name),
                )
            return health
        health.state = "damaged"
        health.version = reader.verify(config.root, options)
        records = reader.records(config.root, options)
        validate_records(records, config.root, name)
        health.notes = reader.notes(config.root, options)
        if odd := judge_tables(records):
            health.notes.append(f"left out or cut: {words(odd)}")
    except UserError as error:
        health.problem, health.next_step = str(error).split(". Fix: ")[0], error.fix or "see docs/datasets.md"
        if generated(study, name):
            health.next_step = f"delete {config.root}: the study writes it again"
        return health
    health.counts, health.complete = _counts(records), reader.complete(health.version, options)
    health.positives = {label: sum(r.labels.get(label) == 1 for r in records) for label in reader.labels}
    health.trainable = has_report(records)
    absent = _sample(reader, records, sample, health)
    bad = health.missing + health.unreadable
    if bad > config.max_corrupt * health.sampled:
        health.next_step = f"complete the download, or raise datasets.{name}.max_corrupt (now {config.max_corrupt:g})"
        if absent and "views" in reader.Options.model_fields:
            health.next_step += (
                f"; no film of view {', '.join(absent)} was found: leave it out of datasets.{name}.options.views"
            )
        return health
    health.state = "ready"
    excess = [f"{health.counts[k]:,} {k} of {n:,}" for k, n in health.complete.items() if health.counts[k] > n]
    if excess:
        health.problem = f"holds more than the complete release: {', '.join(excess)}"
        health.next_step = f"see whether this is {reader.title}, version {health.version}"
    elif bad:
        health.next_step = f"nothing to do: within datasets.{name}.max_corrupt ({config.max_corrupt:g})"
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


def _sample(reader: Reader, records: list[Record], size: int, health: DatasetHealth) -> list[str]:
    """Decode up to ``size`` images spread over the data set; the first problem is named. Returns the views of which every
    film is missing, where others are there.
    """
    rng = generator("doctor", health.name)
    rows = np.sort(rng.choice(len(records), min(size, len(records)), replace=False))

    def attempt(row: int) -> UserError | Counter[str]:
        try:
            return examine(reader, records[row])
        except UserError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # decoders release the interpreter lock
        seen = list(pool.map(attempt, rows.tolist()))
    failed = [(records[row], error) for row, error in zip(rows, seen, strict=True) if isinstance(error, UserError)]
    if odd := sum((found for found in seen if isinstance(found, Counter)), Counter[str]()):
        health.notes.append(f"of {len(rows):,} films looked at: {words(odd)}")
    health.sampled = len(rows)
    missing = [record for record, _ in failed if not record.path.is_file()]
    health.missing = len(missing)
    health.unreadable = len(failed) - health.missing
    if failed:
        bad = f"{health.missing} missing and {health.unreadable} unreadable of {len(rows):,} films looked at, e.g. "
        health.problem = f"{bad}{failed[0][0].path} {failed[0][1].problem}"
    looked_at, lost = Counter(records[row].view for row in rows), Counter(record.view for record in missing)
    absent = [view or "''" for view, count in looked_at.items() if lost[view] == count]
    return absent if len(absent) < len(looked_at) else []
