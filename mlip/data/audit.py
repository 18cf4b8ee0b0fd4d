"""The gate before training: no patient and no film on both sides of a comparison, draws nested, classes present."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from mlip.data.division import ENOUGH
from mlip.data.duplicates import near_duplicates
from mlip.data.lineages import QUIRKS
from mlip.data.sources import comes_from, is_known
from mlip.data.splits import part_rows, read_splits, train_rows
from mlip.data.store import Store, open_store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.study import Study

Level = Literal["fault", "warning", "checked"]
PARTS = ("train", "val", "test")
SHOWN = 100  # rows that the report lists of one finding
DRIFT = 0.05  # absolute difference of prevalence between two parts that is reported


@dataclass(frozen=True)
class Finding:
    """One thing the audit has to say about a data set (or two)."""

    level: Level
    check: str
    dataset: str
    text: str
    rows: tuple[str, ...] = ()  # what it is about: salted hashes of patients or images, with store rows


@dataclass
class AuditReport:
    """All findings of an audit; ``faults`` stop a study."""

    study: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        return [f for f in self.findings if f.level == "fault"]

    def add(self, level: Level, check: str, dataset: str, text: str, rows: Iterable[str] = ()) -> None:
        self.findings.append(Finding(level, check, dataset, text, tuple(rows)))

    def to_markdown(self) -> str:
        warnings = sum(f.level == "warning" for f in self.findings)
        lines = [
            f"# Audit of the study {self.study}",
            "",
            f"{len(self.faults)} faults, {warnings} warnings. Identifiers are salted hashes; `row` is the row of the data set's store.",
            "",
            "| level | check | data | finding |",
            "|---|---|---|---|",
        ]
        order = {"fault": 0, "warning": 1, "checked": 2}
        ranked = sorted(self.findings, key=lambda f: order[f.level])
        lines += [f"| {f.level} | {f.check} | {f.dataset} | {f.text} |" for f in ranked]
        for f in ranked:
            if f.rows:
                more = f" (the first {SHOWN})" if len(f.rows) == SHOWN else ""
                lines += ["", f"## {f.dataset}: {f.text}{more}", "", *(f"- {row}" for row in f.rows)]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Data:
    name: str
    store: Store
    splits: pd.DataFrame
    shared_quirk: str  # why the lineage shares films between parts, or ""

    def excuse(self, one: str, other: str) -> str:
        """Why the lineage shares films between these two parts; "" where it does not."""
        hidden = self.shared_quirk.startswith("shared with validation") and {one, other} != {"train", "val"}
        return "" if hidden else self.shared_quirk

    def patients(self, part: str) -> set[str]:
        return set(self.store.records.patient_id.to_numpy()[part_rows(self.splits, part)])

    def images(self, part: str) -> set[str]:
        return set(self.store.records.image_id.to_numpy()[part_rows(self.splits, part)])


def audit(study: Study) -> AuditReport:
    """Audit all data sets of a study that a stage uses, from their stores and splits, and write ``audit.md``,
    or ``audit.failed.md`` where there are faults.

    Checked: patients and films shared by training, validation and test part; label draws outside the training part or
    not nested; one-class draws; class drift; patients (same root) and films (perceptual hash, confirmed on pixels)
    shared by a pre-training part and any test part, and by data sets configured on one root: no fault where these are two
    divisions of one data set, each with a training part of its own, which no task mixes.

    Of checkpoints that others trained it is said where they may have seen test films; that is a warning.

    Raises
    ------
    UserError : there is a fault; the report is written first and names all of them.
    """
    paths, report = StudyPaths(study), AuditReport(study.study)
    used = list(dict.fromkeys([*study.pretrain.datasets, *(d for t in study.tasks.values() for d in t.datasets)]))
    data = {name: _open(study, paths, name) for name in used}
    for item in data.values():
        _parts(item, report)
        _draws(study, item, report)
        _drift(item, report)
    for first, second in combinations(data.values(), 2):
        if study.datasets[first.name].root.resolve() == study.datasets[second.name].root.resolve():
            divisions = {study.datasets[d.name].split for d in (first, second)}
            own = all((d.splits.part == "train").any() for d in (first, second))
            apart = len(divisions) > 1 and own and not {first.name, second.name} & set(study.pretrain.datasets)
            _one_root(first, second, report, "warning" if apart else "fault")
    for source in study.pretrain.datasets:
        for item in data.values():
            if item.name != source:
                _between(data[source], item, report)
    for row, variant in study.methods.variants.items():
        if variant.weights is not None:
            _trained_elsewhere(study, row, variant.weights.trained_on, data, report)
    paths.audit.parent.mkdir(parents=True, exist_ok=True)
    # Snakemake deletes the output of a job that fails, so a report of faults has a file of its own.
    failed = paths.audit.with_suffix(".failed.md")
    failed.unlink(missing_ok=True)
    (failed if report.faults else paths.audit).write_text(report.to_markdown(), encoding="utf-8")
    if faults := report.faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(
            f"{faults[0].dataset}: {faults[0].text}{more}",
            where=failed,
            fix="mend the data or the split rule named there",
        )
    return report


def _open(study: Study, paths: StudyPaths, name: str) -> _Data:
    config = study.datasets[name]
    quirk = QUIRKS.get(config.split, {}).get(config.reader, "")
    store, splits = open_store(paths.data(name)), read_splits(paths.splits(name))
    if len(splits) and int(splits.row.max()) >= len(store.records):
        raise UserError("belongs to another build of the store", where=paths.splits(name), fix="build the splits again")
    return _Data(name, store, splits, quirk if quirk.startswith("shared") else "")


def _parts(item: _Data, report: AuditReport) -> None:
    """Patients, images and films in more than one part; films under two names in one part."""

    def judged(one: str, other: str) -> tuple[Level, str]:
        quirk = item.excuse(one, other)
        return ("warning", f" (known quirk of the lineage: {quirk})") if quirk else ("fault", "")

    for what, ids in (("patients", item.patients), ("images", item.images)):
        clean = True
        for one, other in combinations(PARTS, 2):
            if shared := sorted(ids(one) & ids(other)):
                clean, (fault, because) = False, judged(one, other)
                named = [
                    f"{what[:-1]} {i}: {_rows_of(item, what, i, one)} ({one}), {_rows_of(item, what, i, other)} ({other})"
                    for i in shared[:SHOWN]
                ]
                text = f"{len(shared)} {what} are in {one} and in {other}, e.g. {shared[0]}{because}"
                report.add(fault, what, item.name, text, named)
        if clean:
            report.add("checked", what, item.name, f"none is in two of {', '.join(PARTS)}")
    rows = {part: part_rows(item.splits, part) for part in PARTS}
    pairs = _films_of_two_patients(item.store)
    for one, other in combinations(PARTS, 2):
        first, second = (np.isin(pairs, rows[part]) for part in (one, other))
        across = (first[:, 0] & second[:, 1]) | (first[:, 1] & second[:, 0])
        fault, because = judged(one, other)
        _report_films(report, fault, item, item, pairs[across], item.name, one, f"{other}{because}")
    for part in PARTS:  # no leak, but such a film counts twice
        within = np.isin(pairs, rows[part]).all(axis=1)
        _report_films(report, "warning", item, item, pairs[within], item.name, part, part)
    if not len(pairs):
        report.add("checked", "same film", item.name, "none has two ids of different patients")
    if len(flat := item.store.flat_rows):  # of no film the same: they show nobody
        ids = item.store.records.image_id.to_numpy()[flat]
        named = [f"{item.name} row {row} ({image})" for row, image in zip(flat[:SHOWN], ids, strict=False)]
        report.add("warning", "one grey level", item.name, f"{len(flat):,} films show nothing, e.g. {ids[0]}", named)


def _films_of_two_patients(store: Store) -> np.ndarray:
    """Pairs of rows with the same film and different patients (shared patients are reported as such), int64 [pairs, 2]."""
    rows, patients = np.arange(len(store.records)), store.records.patient_id.to_numpy()
    pairs = near_duplicates(store, rows, store, rows)
    return pairs[patients[pairs[:, 0]] != patients[pairs[:, 1]]]


def _rows_of(item: _Data, what: str, identifier: str, part: str) -> str:
    """``row 3, 17``: the store rows of a patient or image in a part."""
    column = item.store.records["patient_id" if what == "patients" else "image_id"].to_numpy()
    rows = part_rows(item.splits, part)
    return f"row {', '.join(map(str, rows[column[rows] == identifier]))}"


def _report_films(
    report: AuditReport, level: Level, a: _Data, b: _Data, pairs: np.ndarray, dataset: str, one: str, other: str
) -> None:
    if not len(pairs):
        return
    names = [item.store.records.image_id.to_numpy()[pairs[:, k]] for k, item in enumerate((a, b))]
    text = f"{len(pairs)} films of {one} are the same as one in {other} under another id, e.g. {names[0][0]} = {names[1][0]}"
    named = [
        f"{a.name} row {i} ({first}) = {b.name} row {j} ({second})"
        for (i, j), first, second in list(zip(pairs.tolist(), *names, strict=True))[:SHOWN]
    ]
    report.add(level, "same film", dataset, text, named)


def _draws(study: Study, item: _Data, report: AuditReport) -> None:
    """Draws inside the training part, nested, and with both classes where a task uses them."""
    train, faults = item.splits.part == "train", len(report.faults)
    draws = [str(c) for c in item.splits if str(c).startswith("draw")]
    for column in draws:
        levels = item.splits[column]
        outside, unnested = ~train & (levels != 0), train & ~levels.between(1, 100)
        if outside.any():
            text = f"{int(outside.sum())} rows of {column} are not in the training part"
            report.add("fault", "draws", item.name, text, _named(item, outside))
        if unnested.any():
            text = f"{column} is not nested: {int(unnested.sum())} training rows have no level between 1 and 100 %"
            report.add("fault", "draws", item.name, text, _named(item, unnested))
    if len(report.faults) == faults:
        report.add("checked", "draws", item.name, f"all {len(draws)} inside the training part and nested")
    at_one_percent = any(item.name in t.datasets and 1 in t.fractions for t in study.tasks.values())
    if at_one_percent and train.any():
        _one_class(item, len(draws), report)


def _one_class(item: _Data, draws: int, report: AuditReport) -> None:
    """Labels of which a draw at 1 % holds one class: a fault where the training part had enough of both."""
    whole, patients = part_rows(item.splits, "train"), item.store.records.patient_id.to_numpy()
    smallest = [train_rows(item.splits, 1, draw) for draw in range(draws)]
    rare, clean = [], True
    for label in item.store.labels:
        positive = item.store.label(label) == 1
        draw = next((d for d, rows in enumerate(smallest) if not 0 < positive[rows].sum() < len(rows)), None)
        if draw is None:
            continue
        enough = min(len(set(patients[whole[positive[whole] == kind]])) for kind in (True, False))
        if enough < ENOUGH:
            rare.append(f"{label} ({enough})")
            continue
        clean = False
        text = (
            f"draw {draw} at 1 % ({len(smallest[draw])} rows) holds one class of {label}; "
            f"the training part has {enough} patients of its rarer class"
        )
        report.add("fault", "one class", item.name, text, [f"{item.name} row {row}" for row in smallest[draw][:SHOWN]])
    if rare:
        text = f"a draw at 1 % holds one class of labels with fewer than {ENOUGH} training patients in a class: "
        report.add("warning", "one class", item.name, text + ", ".join(rare))
    if clean:
        report.add("checked", "one class", item.name, "every draw at 1 % holds both classes of every other label")


def _named(item: _Data, chosen: pd.Series) -> list[str]:
    rows = item.splits[chosen].head(SHOWN)
    return [
        f"{item.name} row {row} ({image}), {part}"
        for row, image, part in zip(rows.row, rows.image_id, rows.part, strict=True)
    ]


def _drift(item: _Data, report: AuditReport) -> None:
    """Share of positive films in two parts. Not mentioned counts as not positive, as in the protocols: a part whose table
    leaves negatives out would otherwise look like one of positives only.
    """
    for label in item.store.labels:
        positive = item.store.label(label) == 1
        for one, other in combinations(PARTS, 2):
            first, second = (positive[part_rows(item.splits, part)] for part in (one, other))
            if not (len(first) and len(second)):
                continue
            pooled = float(np.concatenate([first, second]).mean())
            error = np.sqrt(pooled * (1 - pooled) * (1 / len(first) + 1 / len(second)))
            if abs(first.mean() - second.mean()) > max(DRIFT, 3 * error):
                text = f"{label}: {first.mean():.1%} of {one}, {second.mean():.1%} of {other}"
                report.add("warning", "class drift", item.name, text)


def _one_root(a: _Data, b: _Data, report: AuditReport, level: Level) -> None:
    """Two data sets configured on one folder: identifiers are comparable."""
    divisions = " (two divisions of one data set: a task trains and tests within one)" if level == "warning" else ""
    for one, other in ((a, b), (b, a)):
        shared = sorted(one.patients("train") & other.patients("test"))
        pair = f"{one.name} / {other.name}"
        if shared:
            text = f"{len(shared)} patients train in {one.name} and test in {other.name}, e.g. {shared[0]}{divisions}"
            named = [
                f"patient {i}: {one.name} {_rows_of(one, 'patients', i, 'train')}, "
                f"{other.name} {_rows_of(other, 'patients', i, 'test')}"
                for i in shared[:SHOWN]
            ]
            report.add(level, "patients", pair, text, named)
        else:
            report.add("checked", "patients", pair, f"none trains in {one.name} and tests in {other.name}")


def _trained_elsewhere(
    study: Study, row: str, trained_on: list[str], data: dict[str, _Data], report: AuditReport
) -> None:
    """A checkpoint's training films are not here to be compared: what can be said, its `trained_on` says."""
    check = "checkpoint"
    if not trained_on:
        text = f"{row} does not say what it was trained on (weights.trained_on): it may have seen any test film"
        report.add("warning", check, "all", text)
    for name in trained_on:
        if not is_known(name):
            report.add("warning", check, "all", f"{row} was trained on {name}, of which nothing is known here")
    for item in data.values():
        if shared := comes_from(study.datasets[item.name].reader, trained_on):
            films = len(part_rows(item.splits, "test"))
            text = f"{row} was trained on {', '.join(shared)}: that may hold any of the {films} test films"
            report.add("warning", check, item.name, text)
        elif trained_on:
            report.add("checked", check, item.name, f"{row} names no collection that these films are from")


def _between(source: _Data, item: _Data, report: AuditReport) -> None:
    """Films of a pre-training part that are test films elsewhere."""
    pairs = near_duplicates(source.store, part_rows(source.splits, "train"), item.store, part_rows(item.splits, "test"))
    names = f"pre-training on {source.name}", f"test of {item.name}"
    _report_films(report, "fault", source, item, pairs, f"{source.name} / {item.name}", *names)
    if not len(pairs):
        report.add("checked", "same film", f"{source.name} / {item.name}", f"none is in {' and in '.join(names)}")
