"""What stands behind a task's first metric at the most labels: its labels, subgroups of patients, and calibration.

Everything is an estimate as a cell is one (:mod:`benchmarks.cells`): mean over pre-training seeds and label draws, interval
from patients, draws and seeds. Subgroups come from the data set's own tables by way of the store (view, sex, age). The
*gap* of a kind of group is its worst group's value less that of all other films, with the groups held as they were found:
the worst of several is below the others by chance too, so the interval of one gap among several rows is no test of that row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmarks.scores import statistics
from benchmarks.scores.calibration import CALIBRATION
from benchmarks.scores.metrics import METRICS, Metric
from benchmarks.scores.predictions import Predictions
from benchmarks.scores.statistics import Estimate
from benchmarks.scores.support import carriers, positives
from benchmarks.scores.weighted import Undefined

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan

COLUMNS = [
    "task", "protocol", "dataset", "metric", "fraction", "method", "kind", "group",
    "value", "ci_low", "ci_high", "n_test", "positives",
]  # fmt: skip
LABEL, CALIBRATED, GAP = "label", "calibration", "gap"
CARRIERS = 10  # patients that must carry the metric in a group, or it is left out
AGES = (0, 40, 60, 80, np.inf)
CLASSES = "accuracy_argmax"  # its labels are the films of one true class: the share of them that is right


@dataclass(frozen=True)
class Row:
    """The predictions of a row: one file per seed."""

    name: str
    files: list[Predictions]
    seeded: bool


def breakdown(
    plan: Plan, block: Block, rows: list[Row], patients: pd.Index, weights: np.ndarray
) -> list[dict[str, Any]]:
    """Records with ``COLUMNS`` of one block. ``patients`` and ``weights [P, R]``: the resamples that the cells are made with."""
    if not rows:
        return []
    spec, fraction = block.specs[0], max(block.plan)
    draws = block.plan[fraction]
    drawn = bool(block.task.fraction_unit) and not (block.task.fraction_unit == "%" and fraction == 100)
    place = {"task": block.task_name, "protocol": block.protocol_name, "dataset": block.dataset, "fraction": fraction}
    first = rows[0].files[0]
    frame = first.frame.take(first.groups[fraction, draws[0]])
    images = first.image_ids[frame["image_id"].to_numpy()]
    found = []

    def estimates(
        metric: Metric, args: Mapping[str, Any], kept: frozenset[str] | None, label: str = "", of: Sequence[Row] = rows
    ) -> dict[str, Estimate]:
        part = _Part(metric, args, fraction, draws, kept, label)
        return part.estimates(of, patients, weights, drawn)

    def add(kind: str, group: str, title: str, of: Mapping[str, Estimate], tests: int, carried: int | None) -> None:
        for name, one in of.items():
            low, high = statistics.confidence(one, plan.study.statistics.level)
            found.append({
                **place, "metric": title, "method": name, "kind": kind, "group": group, "value": one.value,
                "ci_low": low, "ci_high": high, "n_test": tests, "positives": carried,
            })  # fmt: skip

    metric = METRICS[spec.key]
    for label, kept in _labels(spec.key, frame, images):
        counts = positives(frame)
        tests = len(kept) if kept is not None else frame.loc[frame["label"] == label, "image_id"].nunique()
        add(
            LABEL,
            label,
            spec.title,
            estimates(metric, spec.args, kept, "" if kept else label),
            tests,
            counts.get(label),
        )
    for kind, groups in subgroups(plan, block.dataset, set(images)).items():
        of_groups = {}
        for group, kept in groups.items():
            inside = frame[np.isin(images, list(kept))]
            who = first.patient[first.groups[fraction, draws[0]]][np.isin(images, list(kept))]
            if len(inside) and carriers(spec.key, inside, who, spec.args) >= CARRIERS:
                of = estimates(metric, spec.args, kept)
                counts = positives(inside)
                add(kind, group, spec.title, of, len(kept), min(counts.values(), default=None))
                of_groups[group] = of
        if len(of_groups) > 1:
            for row in rows:
                values = {g: of[row.name].value for g, of in of_groups.items() if row.name in of}
                if len(values) > 1:
                    worst = min(values, key=values.__getitem__)
                    rest = frozenset(set(images) - groups[worst])
                    others = estimates(metric, spec.args, rest, of=[row])
                    if row.name in others:
                        gap = _less(of_groups[worst][row.name], others[row.name])
                        add(f"{kind} {GAP}", worst, spec.title, {row.name: gap}, len(groups[worst]), None)
    if {"y", "p"} <= set(frame.columns) and block.task.fraction_unit:
        for title, measure in CALIBRATION.items():
            add(CALIBRATED, title, title, estimates(measure, {}, None), len(set(images)), None)
    return found


def _labels(key: str, frame: pd.DataFrame, images: np.ndarray) -> Iterator[tuple[str, frozenset[str] | None]]:
    """The labels that a metric is a mean over; of the accuracy over classes, each with the films of that class."""
    if "label" not in frame or not {"y", "n_truth"} & set(frame.columns):
        return
    names = sorted(map(str, frame["label"].unique()))
    for name in names if len(names) > 1 else []:
        kept = None
        if key == CLASSES:
            kept = frozenset(images[((frame["label"] == name) & (frame["y"] == 1)).to_numpy()])
        yield name, kept


@dataclass(frozen=True)
class _Part:
    """A metric on some of the predictions."""

    metric: Metric
    args: Mapping[str, Any]
    fraction: int
    draws: list[int]
    kept: frozenset[str] | None  # image ids, None: all
    label: str  # "": all

    def estimates(
        self, rows: Sequence[Row], patients: pd.Index, weights: np.ndarray, drawn: bool
    ) -> dict[str, Estimate]:
        found = {}
        for row in rows:
            try:
                found[row.name] = self._estimate(row, patients, weights, drawn)
            except Undefined:
                continue
        return found

    def _estimate(self, row: Row, patients: pd.Index, weights: np.ndarray, drawn: bool) -> Estimate:
        shape = (len(row.files), len(self.draws))
        values, resampled, units = np.empty(shape), np.empty((*shape, weights.shape[1])), 0
        for s, file in enumerate(row.files):
            owners = patients.get_indexer(file.patients)[file.patient]
            inside = None if self.kept is None else np.isin(file.image_ids, list(self.kept))
            for d, draw in enumerate(self.draws):
                chosen = file.groups[self.fraction, draw]
                frame = file.frame.take(chosen)
                keep = np.ones(len(frame), dtype=bool) if inside is None else inside[frame["image_id"].to_numpy()]
                if self.label:
                    keep &= (frame["label"] == self.label).to_numpy()
                frame, who = frame[keep], owners[chosen[keep]]
                values[s, d], resampled[s, d] = self.metric.resample(frame, who, weights, dict(self.args))
                units = units or carriers(_key(self.metric), frame, who, dict(self.args))
        return statistics.estimate(values, resampled, units, seeded=row.seeded, drawn=drawn)


def _key(metric: Metric) -> str:
    return next((key for key, one in METRICS.items() if one is metric), "")


def _less(a: Estimate, b: Estimate) -> Estimate:
    """``a - b`` of ONE row on two sets of films: its seeds and draws are the same in both."""
    draws = tuple(x - y for x, y in zip(a.draws, b.draws, strict=True))
    return Estimate(
        a.value - b.value, a.seeds - b.seeds, a.replicates - b.replicates, draws, min(a.units, b.units), a.seeded, bounded=False
    )  # fmt: skip


def subgroups(plan: Plan, dataset: str, images: set[str]) -> dict[str, dict[str, frozenset[str]]]:
    """Kind (view, sex, age) -> group -> ids of test images, where the store says it of them and there are two groups."""
    path = plan.paths.data(dataset) / "records.parquet"
    if not path.is_file():
        return {}
    records = pd.read_parquet(path)
    records = records[records["image_id"].isin(images)]
    found: dict[str, dict[str, frozenset[str]]] = {}
    for kind in ("view", "sex", "age"):
        if kind not in records:
            continue
        column = age_bands(records["age"]) if kind == "age" else records[kind].astype(str)
        groups = {str(g): frozenset(ids) for g, ids in records["image_id"].groupby(column) if str(g) not in ("", "nan")}
        if len(groups) > 1:
            found[kind] = groups
    return found


def age_bands(age: pd.Series) -> pd.Series:
    """Years -> "under 40", "40-59", "60-79", "80 and over"; "" where it is not known."""
    names = [
        f"under {AGES[1]}",
        *(f"{a}-{b - 1}" for a, b in pairwise(AGES[1:-1])),
        f"{AGES[-2]} and over",
    ]
    return pd.cut(age, AGES, right=False, labels=names).astype(object).fillna("").astype(str)
