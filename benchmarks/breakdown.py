"""What stands behind a task's first metric at the most labels: its labels, subgroups of patients, and calibration.

Everything is an estimate as a cell is one (:mod:`benchmarks.cells`): mean over pre-training seeds and label draws, interval
from patients, draws and seeds. Subgroups come from the data set's own tables by way of the store (view, sex, age). The
*gap* of a kind of group is its worst group's value less that of all other films, with the groups held as they were found:
the worst of several is below the others by chance too, so the interval of one gap among several rows is no test of that row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.scores import statistics
from benchmarks.scores.calibration import CALIBRATION
from benchmarks.scores.metrics import METRICS, Metric
from benchmarks.scores.predictions import Predictions
from benchmarks.scores.resampled import owners_of, resampled
from benchmarks.scores.statistics import Estimate
from benchmarks.scores.support import carriers, positives
from benchmarks.scores.weighted import Undefined

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan, Row

COLUMNS = [
    "task", "protocol", "dataset", "metric", "fraction", "method", "kind", "group",
    "value", "ci_low", "ci_high", "n_test", "positives",
]  # fmt: skip
LABEL, CALIBRATED, GAP = "label", "calibration", "gap"
CARRIERS = 10  # patients that must carry the metric in a group, or it is left out
AGES = (0, 40, 60, 80, np.inf)
CLASSES = "accuracy_argmax"  # its labels are the films of one true class: the share of them that is right


Groups = dict[str, dict[str, frozenset[str]]]  # kind -> group -> ids of test images


def breakdown(
    plan: Plan,
    block: Block,
    row: Row,
    files: Sequence[Predictions],
    of_kind: Groups,
    patients: pd.Index,
    weights: np.ndarray,
) -> list[dict[str, Any]]:
    """Records with ``COLUMNS`` of one row, from its predictions, a file per seed.

    ``of_kind``: see :func:`subgroups`. ``patients`` and ``weights [P, R]``: the resamples that the cells are made with.
    """
    spec, fraction = block.specs[0], max(block.plan)
    draws, seeded = block.plan[fraction], row.entry is not None and row.entry.seeded
    chosen = files[0].groups[fraction, draws[0]]
    frame, owners = files[0].frame.take(chosen), owners_of(files[0], patients)[chosen]
    images = files[0].image_ids[frame["image_id"].to_numpy()]
    counts, every = positives(frame), frozenset(images)
    found: list[dict[str, Any]] = []

    def estimate(
        kept: frozenset[str] | None, label: str = "", key: str = spec.key, metric: Metric = METRICS[spec.key]
    ) -> Estimate | None:
        args = spec.args if key == spec.key else {}

        def choose(file: Predictions, rows: np.ndarray) -> np.ndarray:
            inside = np.ones(len(rows), dtype=bool)
            if kept is not None:
                inside = np.isin(file.image_ids, list(kept))[file.frame["image_id"].to_numpy()[rows]]
            if label:
                inside &= (file.frame["label"].iloc[rows] == label).to_numpy()
            return rows[inside]

        try:
            values, again = resampled(files, metric, args, fraction, draws, patients, weights, choose)
        except Undefined:
            return None
        here = np.isin(chosen, choose(files[0], chosen))
        units = carriers(key, frame[here], owners[here], args)
        return statistics.estimate(values, again, units, seeded=seeded, drawn=block.drawn(fraction))

    def add(
        kind: str, group: str, one: Estimate | None, tests: int, carried: int | None, title: str = spec.title
    ) -> None:
        if one is not None:
            low, high = statistics.confidence(one, plan.study.statistics.level)
            found.append({
                "task": block.task_name, "protocol": block.protocol_name, "dataset": block.dataset, "metric": title,
                "fraction": fraction, "method": row.name, "kind": kind, "group": group, "value": one.value, "ci_low": low,
                "ci_high": high, "n_test": tests, "positives": carried,
            })  # fmt: skip

    for label, kept in _labels(spec.key, frame, images):
        tests = len(kept) if kept is not None else frame.loc[frame["label"] == label, "image_id"].nunique()
        add(LABEL, label, estimate(kept, "" if kept else label), tests, counts.get(label))
    for kind, groups in of_kind.items():
        of: dict[str, Estimate] = {}
        for group, kept in groups.items():
            inside = np.isin(images, list(kept))
            if inside.any() and carriers(spec.key, frame[inside], owners[inside], spec.args) >= CARRIERS:
                one = estimate(kept)
                add(kind, group, one, len(kept), min(positives(frame[inside]).values(), default=None))
                of |= {group: one} if one is not None else {}
        if len(of) > 1:
            worst = min(of, key=lambda group: of[group].value)
            others = estimate(every - groups[worst])
            if others is not None:
                add(f"{kind} {GAP}", worst, _less(of[worst], others), len(groups[worst]), None)
    if {"y", "p"} <= set(frame.columns) and block.task.fraction_unit:
        for title, measure in CALIBRATION.items():
            add(CALIBRATED, title, estimate(None, key=title, metric=measure), len(every), None, title)
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


def _less(a: Estimate, b: Estimate) -> Estimate:
    """``a - b`` of ONE row on two sets of films: its seeds and draws are the same in both."""
    draws = tuple(x - y for x, y in zip(a.draws, b.draws, strict=True))
    return Estimate(
        a.value - b.value, a.seeds - b.seeds, a.replicates - b.replicates, draws, min(a.units, b.units), a.seeded, bounded=False
    )  # fmt: skip


def subgroups(plan: Plan, dataset: str, images: frozenset[str]) -> Groups:
    """Kind (view, sex, age) -> group -> ids of test images, where the store says it of them and there are two groups."""
    path = plan.paths.data(dataset) / "records.parquet"
    if not path.is_file():
        return {}
    said = [kind for kind in ("view", "sex", "age") if kind in pq.read_schema(path).names]
    records = pd.read_parquet(path, columns=["image_id", *said])  # reports may be long
    records = records[records["image_id"].isin(images)]
    found: Groups = {}
    for kind in said:
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
