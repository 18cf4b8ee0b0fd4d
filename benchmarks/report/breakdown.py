"""What looks behind a task's main numbers: labels, subgroups of patients, calibration; as tables, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from tabulate import tabulate

from benchmarks.breakdown import CALIBRATED, CARRIERS, GAP, LABEL
from benchmarks.cells import Results, fraction_name
from benchmarks.report.words import row_name

if TYPE_CHECKING:
    from benchmarks.plan import Block

KINDS = ("view", "sex", "age")
ABOUT = {
    "Labels": "The first metric at the most labels, label by label; of an accuracy over classes, among the films of each class.",
    "Subgroups": "The first metric at the most labels, in the groups that the data set's own tables give. Groups in which fewer than "
    f"{CARRIERS} patients carry the metric are left out. Gap: the worst group less all other films. The worst of several is lower "
    "by chance too: read a gap whose interval leaves out 0 as a question.",
    "Calibration": "Brier score and expected calibration error (15 bins), mean over labels, at the most labels; the lower the better. "
    "The error on a finite test set is above 0 also where all is well.",
}


@dataclass(frozen=True)
class Table:
    head: list[str]
    lines: list[list[tuple[str, float | None]]] = field(default_factory=list)  # text, and what it is sorted by


def tables(results: Results, blocks: Sequence[Block]) -> dict[str, list[Table]]:
    """Title (a key of ``ABOUT``) -> tables of the blocks of one task; titles without a table are left out."""
    found: dict[str, list[Table]] = {title: [] for title in ABOUT}
    for block in blocks:
        behind = results.behind
        place = (behind["task"] == block.task_name) & (behind["protocol"] == block.protocol_name)
        own = behind[place & (behind["dataset"] == block.dataset)]
        of = {kind: own[own["kind"] == kind] for kind in (LABEL, CALIBRATED, *KINDS, *(f"{k} {GAP}" for k in KINDS))}
        for title, kind in (("Labels", LABEL), ("Calibration", CALIBRATED)):
            if len(of[kind]):
                found[title].append(_table(results, block, of[kind]))
        for kind in KINDS:
            if len(set(of[kind]["group"])) > 1:
                found["Subgroups"].append(_table(results, block, of[kind], kind, of[f"{kind} {GAP}"]))
    return {title: some for title, some in found.items() if some}


def sections(results: Results, blocks: Sequence[Block]) -> list[str]:
    """The tables as Markdown."""
    parts = []
    for title, some in tables(results, blocks).items():
        parts += [f"## {title}", ABOUT[title]]
        for table in some:
            lines = [[text for text, _ in line] for line in table.lines]
            parts.append(tabulate(lines, headers=table.head, tablefmt="github", disable_numparse=True))
    return parts


def _table(
    results: Results, block: Block, found: pd.DataFrame, kind: str = "", gaps: pd.DataFrame | None = None
) -> Table:
    groups = list(dict.fromkeys(found["group"]))
    cells = {(r["method"], r["group"]): r for r in found.to_dict("records")}
    worst = {} if gaps is None else {r["method"]: r for r in gaps.to_dict("records")}
    labels = fraction_name(block.task, int(found["fraction"].iloc[0]))
    table = Table([f"{block.dataset} {labels}".strip(), *[f"{kind} {g} ({_size(found, g)})".strip() for g in groups]])
    if gaps is not None:
        table.head.append(f"gap of the worst {kind}")
    for row in block.rows:
        if not any((row.name, group) in cells for group in groups):
            continue
        line: list[tuple[str, float | None]] = [(row_name(row, results), None)]
        line += [_cell(cells.get((row.name, group))) for group in groups]
        if gaps is not None:
            text, order = _cell(worst.get(row.name), "+")
            line.append((f"{worst[row.name]['group']}: {text}" if text else "", order))
        table.lines.append(line)
    return table


def _size(found: pd.DataFrame, group: str) -> str:
    """ "120 films", or "120 films, 33 positive", which are those of the label with the fewest."""
    first = found[found["group"] == group].iloc[0]
    return f"{first['n_test']} films" + ("" if pd.isna(first["positives"]) else f", {first['positives']:.0f} positive")


def _cell(record: Mapping[Any, Any] | None, sign: str = "") -> tuple[str, float | None]:
    if record is None:
        return "", None
    value, low, high = (100 * float(record[k]) for k in ("value", "ci_low", "ci_high"))
    interval = " [no interval]" if pd.isna(low) else f" [{low:{sign}.1f}, {high:{sign}.1f}]"
    return f"{value:{sign}.1f}{interval}", value
