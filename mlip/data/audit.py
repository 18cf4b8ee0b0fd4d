"""The gate before training: no patient and no film on both sides of a comparison, draws nested, classes present."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from mlip.data.duplicates import near_duplicates
from mlip.data.lineages import QUIRKS
from mlip.data.splits import ENOUGH, part_rows, read_splits, train_rows
from mlip.data.store import Store, open_store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.study import Study

DRIFT = 0.05  # absolute difference of prevalence between training and test part that is reported


@dataclass(frozen=True)
class Finding:
    """One thing the audit has to say about a data set (or two)."""

    level: Literal["fault", "warning", "checked"]
    check: str
    dataset: str
    text: str


@dataclass
class AuditReport:
    """All findings of an audit; ``faults`` stop a study."""

    study: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        return [f for f in self.findings if f.level == "fault"]

    def add(self, level: Literal["fault", "warning", "checked"], check: str, dataset: str, text: str) -> None:
        self.findings.append(Finding(level, check, dataset, text))

    def to_markdown(self) -> str:
        lines = [f"# Audit of the study {self.study}", ""]
        lines += [
            f"{len(self.faults)} faults. Identifiers are salted hashes.",
            "",
            "| level | check | data | finding |",
            "|---|---|---|---|",
        ]
        order = {"fault": 0, "warning": 1, "checked": 2}
        ranked = sorted(self.findings, key=lambda f: order[f.level])
        lines += [f"| {f.level} | {f.check} | {f.dataset} | {f.text} |" for f in ranked]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Data:
    name: str
    store: Store
    splits: pd.DataFrame
    shared_quirk: str  # why the lineage shares films between parts, or ""

    def patients(self, part: str) -> set[str]:
        return set(self.store.records.patient_id.to_numpy()[part_rows(self.splits, part)])

    def images(self, part: str) -> set[str]:
        return set(self.store.records.image_id.to_numpy()[part_rows(self.splits, part)])


def audit(study: Study) -> AuditReport:
    """Audit all data sets of a study that a stage uses, from their stores and splits, and write ``audit.md``,
    or ``audit.failed.md`` where there are faults.

    Checked: patients and films shared by training, validation and test part; label draws outside the training part or
    not nested; one-class draws; class drift; patients (same root) and films (perceptual hash, confirmed on pixels)
    shared by a pre-training part and any test part, and by data sets configured on one root.

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
            _one_root(first, second, report)
    for source in study.pretrain.datasets:
        for item in data.values():
            if item.name != source:
                _between(data[source], item, report)
    paths.audit.parent.mkdir(parents=True, exist_ok=True)
    # Snakemake deletes the output of a job that fails, so a report of faults has a file of its own.
    failed = paths.audit.with_suffix(".failed.md")
    failed.unlink(missing_ok=True)
    (failed if report.faults else paths.audit).write_text(report.to_markdown())
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
    """Patients, images and films in more than one part."""
    fault: Literal["fault", "warning"] = "warning" if item.shared_quirk else "fault"
    because = f" (known quirk of the lineage: {item.shared_quirk})" if item.shared_quirk else ""
    for one, other in combinations(("train", "val", "test"), 2):
        for what, ids in (("patients", item.patients), ("images", item.images)):
            shared = sorted(ids(one) & ids(other))
            if shared:
                report.add(
                    fault,
                    what,
                    item.name,
                    f"{len(shared)} {what} are in {one} and in {other}, e.g. {shared[0]}{because}",
                )
            else:
                report.add("checked", what, item.name, f"none is in {one} and in {other}")
        rows = part_rows(item.splits, one), part_rows(item.splits, other)
        patients = item.store.records.patient_id.to_numpy()
        pairs = near_duplicates(item.store, rows[0], item.store, rows[1])
        pairs = pairs[patients[pairs[:, 0]] != patients[pairs[:, 1]]]  # shared patients are reported as such
        _report_films(report, fault, item.store, item.store, pairs, item.name, one, f"{other}{because}")


def _report_films(
    report: AuditReport,
    level: Literal["fault", "warning"],
    a: Store,
    b: Store,
    pairs: np.ndarray,
    dataset: str,
    one: str,
    other: str,
) -> None:
    if not len(pairs):
        report.add("checked", "same film", dataset, f"none is in {one} and in {other}")
        return
    first = a.records.image_id.iloc[pairs[0, 0]], b.records.image_id.iloc[pairs[0, 1]]
    text = f"{len(pairs)} films of {one} are the same as one in {other} under another id, e.g. {first[0]} = {first[1]}"
    report.add(level, "same film", dataset, text)


def _draws(study: Study, item: _Data, report: AuditReport) -> None:
    """Draws inside the training part, nested, and with both classes where a task uses them."""
    train = item.splits.part == "train"
    for column in [c for c in item.splits if str(c).startswith("draw")]:
        levels = item.splits[column]
        if (levels[~train] != 0).any():
            report.add(
                "fault",
                "draws",
                item.name,
                f"{int((levels[~train] != 0).sum())} rows of {column} are not in the training part",
            )
        if not levels[train].between(1, 100).all():
            report.add(
                "fault", "draws", item.name, f"{column} is not nested: a training row has no level between 1 and 100 %"
            )
    fractions = {f: 0 for t in study.tasks.values() if item.name in t.datasets for f in t.fractions}
    draws = sum(str(c).startswith("draw") for c in item.splits)
    if 1 not in fractions or not train.any():
        return
    whole = part_rows(item.splits, "train")
    patients = item.store.records.patient_id.to_numpy()
    for label in item.store.labels:
        positive = item.store.label(label) == 1
        enough = min(len(set(patients[whole[positive[whole]]])), len(set(patients[whole[~positive[whole]]])))
        for draw in range(draws):
            rows = train_rows(item.splits, 1, draw)
            if 0 < positive[rows].sum() < len(rows):
                continue
            text = f"draw {draw} at 1 % ({len(rows)} rows) holds one class of {label}; the training part has {enough} patients of its rarer class"
            if enough < ENOUGH:
                report.add("warning", "one class", item.name, text + ": too few to ask for")
            else:
                report.add("fault", "one class", item.name, text)
            break
    report.add("checked", "draws", item.name, f"{draws} draws: inside training, nested, classes at 1 %")


def _drift(item: _Data, report: AuditReport) -> None:
    """Prevalence of each label in training and test part (of the rows where it is known)."""
    parts = {p: part_rows(item.splits, p) for p in ("train", "test")}
    if not all(map(len, parts.values())):
        return
    for label in item.store.labels:
        values = item.store.label(label)
        known = {p: values[r][~np.isnan(values[r])] for p, r in parts.items()}
        if not all(map(len, known.values())):
            continue
        share = {p: float((v == 1).mean()) for p, v in known.items()}
        pooled = float((np.concatenate(list(known.values())) == 1).mean())
        error = np.sqrt(pooled * (1 - pooled) * sum(1 / len(v) for v in known.values()))
        gap = abs(share["train"] - share["test"])
        if gap > DRIFT and gap > 3 * error:
            report.add(
                "warning",
                "class drift",
                item.name,
                f"{label}: {share['train']:.1%} of training, {share['test']:.1%} of test",
            )


def _one_root(a: _Data, b: _Data, report: AuditReport) -> None:
    """Two data sets configured on one folder: identifiers are comparable."""
    for one, other in ((a, b), (b, a)):
        shared = sorted(one.patients("train") & other.patients("test"))
        pair = f"{one.name} / {other.name}"
        if shared:
            report.add(
                "fault",
                "patients",
                pair,
                f"{len(shared)} patients train in {one.name} and test in {other.name}, e.g. {shared[0]}",
            )
        else:
            report.add("checked", "patients", pair, f"none trains in {one.name} and tests in {other.name}")


def _between(source: _Data, item: _Data, report: AuditReport) -> None:
    """Films of a pre-training part that are test films elsewhere."""
    pairs = near_duplicates(source.store, part_rows(source.splits, "train"), item.store, part_rows(item.splits, "test"))
    names = f"pre-training on {source.name}", f"test of {item.name}"
    _report_films(report, "fault", source.store, item.store, pairs, f"{source.name} / {item.name}", *names)
