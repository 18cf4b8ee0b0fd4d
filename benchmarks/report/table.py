"""One table: rows are methods and controls, columns data sets and label fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from tabulate import tabulate

from benchmarks.cells import Column, Results, fraction_name
from benchmarks.report.words import letter, row_name

if TYPE_CHECKING:
    from benchmarks.plan import Block, Row


def metric_table(results: Results, blocks: Sequence[Block], index: int) -> str:
    """Rows: methods, then controls. Columns: data set x fraction, for the ``index``-th metric of each data set."""
    keys = [
        (block, (block.task_name, block.protocol_name, block.dataset, block.specs[index].title, fraction))
        for block in blocks
        for fraction in block.plan
    ]
    cells = {
        k: g.set_index("method")
        for k, g in results.cells.groupby(["task", "protocol", "dataset", "metric", "fraction"])
    }
    columns = {(c.task, c.protocol, c.dataset, c.metric, c.fraction): c for c in results.columns}
    notes: dict[str, str] = {}
    head = ["method", *(f"{k[2]} {k[3]} {fraction_name(b.task, k[4])}".strip() for b, k in keys)]
    lines: list[list[str]] = []
    previous: Row | None = None
    for row in blocks[0].rows:
        if row.control and not (previous and previous.control):
            lines.append(["*Controls*", *[""] * len(keys)])
        lines.append([row_name(row, results), *(cell_text(cells[k].loc[row.name], columns[k], notes) for _, k in keys)])
        previous = row
    lines.append(["*Smallest separable gap*", *(gap_text(columns[k]) for _, k in keys)])
    text = tabulate(lines, headers=head, tablefmt="github", disable_numparse=True)
    tests = {b.dataset: cells[k]["n_test"].dropna() for b, k in keys}
    sizes = ", ".join(f"{dataset} {int(n.iloc[0])}" for dataset, n in tests.items() if len(n))
    below = [f"Test images: {sizes}."] if sizes else []
    below += ["\n".join(f"- [{mark}] {reason}" for reason, mark in notes.items())] if notes else []
    return "\n\n".join([text, *below])


def cell_text(cell: Any, column: Column, notes: dict[str, str]) -> str:
    """The printed cell; a cell without value gets the letter of its reason, which is added to ``notes``."""
    if cell["status"] != "ok":
        reason = f"{cell['status']}: {cell['reason']}"
        return f"{cell['status']} [{notes.setdefault(reason, letter(len(notes)))}]"
    text = f"{100 * cell['value']:.1f}"
    interval = f" [{100 * cell['ci_low']:.1f}, {100 * cell['ci_high']:.1f}]"
    if pd.isna(cell["rank"]):
        return text + interval
    rank = int(cell["rank"])
    shared = "=" if column.ranking.ranks.count(rank) > 1 else ""
    return (f"**{text}**" if rank == 1 else text) + f"{interval} ({rank}{shared})"


def gap_text(column: Column) -> str:
    ranking = column.ranking
    if not ranking.pairs:
        return ""
    gap = "none" if math.isnan(ranking.smallest_gap) else f"{100 * ranking.smallest_gap:.1f}"
    return f"{gap} ({ranking.separable} of {ranking.pairs} pairs)"


def task_csv(results: Results, name: str) -> pd.DataFrame:
    """The task's cells with the value scaled between the controls: 0 the best floor control, 1 the oracle (or 100 %)."""
    cells = results.cells[results.cells["task"] == name].drop(columns=["seconds"])
    keys = ["task", "protocol", "dataset", "metric", "fraction"]
    bounds = pd.DataFrame(
        [(c.task, c.protocol, c.dataset, c.metric, c.fraction, c.floor, c.ceiling) for c in results.columns],
        columns=[*keys, "floor", "ceiling"],
    )
    merged = cells.merge(bounds, on=keys, how="left")
    merged["scaled"] = scaled(merged["value"], merged["floor"], merged["ceiling"])
    return merged.round(6)


def scaled(value: pd.Series, floor: pd.Series, ceiling: pd.Series) -> pd.Series:
    """(value - floor) / (ceiling - floor); NaN where the controls leave no room."""
    room = ceiling - floor
    return (value - floor) / room.where(room > 0)
