"""The headline: each method's mean standing between floor and a perfect score, one vote per task."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cells import Column, Results, fraction_name
from benchmarks.scores import statistics

if TYPE_CHECKING:
    from benchmarks.plan import Row


@dataclass(frozen=True)
class Standings:
    """Mean scaled value of the rows that have all main cells, and how the methods among them rank."""

    estimates: dict[str, statistics.Estimate]  # methods and the controls that are methods
    ranking: statistics.Ranking  # of the methods
    above_controls: dict[str, bool]
    counted: list[Column]
    left_out: dict[str, str]  # column in words -> why it has no vote

    def bold(self, name: str) -> bool:
        """As for a column: nothing separably better, and separably above every untrained row."""
        return name in self.ranking.leaders and self.above_controls.get(name, False)


def main_columns(results: Results) -> list[Column]:
    """The first metric under the first protocol of each task, at every data set and fraction."""
    first: dict[str, str] = {}
    for block in results.blocks:
        first.setdefault(block.task_name, block.protocol_name)
    return [c for c in results.columns if c.main and c.protocol == first[c.task]]


def top_columns(results: Results) -> dict[str, list[Column]]:
    """Main columns at each task's most labels, by heading; one for each metric, as no mean is taken over two."""
    blocks = {b.task_name: b for b in reversed(results.blocks)}  # the first block of each task
    found: dict[str, list[Column]] = {}
    for column in main_columns(results):
        block = blocks[column.task]
        if column.fraction == max(block.plan):
            labels = fraction_name(block.task, column.fraction)
            found.setdefault(f"{block.task.title}: {column.metric} {labels}".strip(), []).append(column)
    return found


def panels(results: Results) -> list[tuple[Column, str, str]]:
    """The columns of :func:`top_columns`, each with what stands over its panel: the task; data set, metric and labels."""
    found = []
    for heading, columns in top_columns(results).items():
        task, _, measured = heading.partition(": ")
        found += [(column, task, f"{column.dataset}: {measured}") for column in columns]
    return found


def complete(results: Results, row: Row) -> bool:
    """Whether a row has a value in every main column."""
    return all(row.name in c.estimates for c in main_columns(results))


def standings(results: Results, level: float) -> Standings:
    """A column's scaled value is (value - floor) / (1 - floor); a task's is the mean over its columns.

    A column has no vote, for any row, where its floor is missing, or where its labels were drawn once: what another draw
    would give is unknown there. Pre-training seeds go through all columns, so that a lucky training counts once.
    """
    counted, left_out = [], {}
    tasks = {block.task_name: block.task for block in results.blocks}
    for column in main_columns(results):
        why = _no_vote(column)
        if why:
            labels = fraction_name(tasks[column.task], column.fraction)
            left_out[f"{column.task} {column.dataset} {labels}".strip()] = why
        else:
            counted.append(column)
    votes = Counter(c.task for c in counted)
    rows = {r.name: r for block in results.blocks for r in block.rows if r.entry is not None}
    found = {}
    for name, row in rows.items():
        if counted and complete(results, row):
            weights = [1 / (len(votes) * votes[c.task] * (1 - c.floor)) for c in counted]
            shift = -sum(w * c.floor for w, c in zip(weights, counted, strict=True))
            found[name] = statistics.mean_of([c.estimates[name] for c in counted], weights, shift)
    methods = {n: e for n, e in found.items() if not rows[n].control}
    controls = {n: e for n, e in found.items() if rows[n].control}
    # A control that failed somewhere may have been the best; one that cannot do a task (no text side) is no rival in the mean.
    failed = any(results.statuses(n, main_columns(results)) - {"ok", "skipped"} for n, r in rows.items() if r.control)
    above = {} if failed else statistics.above_all(methods, controls, level)
    return Standings(found, statistics.rank(methods, level), above, counted, left_out)


def _no_vote(column: Column) -> str:
    if np.isnan(column.floor):
        return f"its floor ({column.floor_of or 'a control'}) is not there"
    if not column.floor < 1:
        return "its floor leaves no room"
    if any(np.isnan(e.variance.draws) for e in column.estimates.values()):
        return "one draw of the labels"
    return ""
