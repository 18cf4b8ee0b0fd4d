"""One table: rows are methods and controls, columns data sets and label fractions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmarks.cells import KEY, Column, Results, fraction_name
from benchmarks.report.words import full_name, letter
from benchmarks.scores.support import FEW

if TYPE_CHECKING:
    from benchmarks.plan import Block, Row


Key = tuple[str, str, str, str, int]  # of a column: task, protocol, data set, metric, fraction


def column_keys(blocks: Sequence[Block], index: int) -> list[tuple[Block, Key]]:
    """The columns of a table: data set x fraction, for the ``index``-th metric of each data set."""
    return [
        (block, (block.task_name, block.protocol_name, block.dataset, block.specs[index].title, fraction))
        for block in blocks
        for fraction in block.plan
    ]


def metric_table(results: Results, blocks: Sequence[Block], index: int) -> str:
    """Rows: methods, then controls. Columns: data set x fraction, for the ``index``-th metric of each data set."""
    keys = column_keys(blocks, index)
    cells, columns = results.by_column, results.column
    notes: dict[str, str] = {}
    head = ["method", *(f"{k[2]} {k[3]} {fraction_name(b.task, k[4])}".strip() for b, k in keys)]
    lines: list[list[str]] = []
    previous: Row | None = None
    for row in blocks[0].rows:
        if row.control and not (previous and previous.control):
            lines.append(["*Controls*", *[""] * len(keys)])
        lines.append(
            [full_name(row, results), *(cell_text(cells[k].loc[row.name], columns[k], notes) for _, k in keys)]
        )
        previous = row
    lines.append(["*Smallest separable gap*", *(gap_text(columns[k]) for _, k in keys)])
    lines.append(["*Variance: patients / draws / seeds*", *(shares_text(columns[k]) for _, k in keys)])
    text = tabulate(lines, headers=head, tablefmt="github", disable_numparse=True)
    below = [size_text(b.dataset, cells[k], columns[k]) for b, k in keys]
    below = [f"Test images (positives): {'; '.join(dict.fromkeys(filter(None, below)))}."] if any(below) else []
    below += unranked_text([(f"{k[2]} {fraction_name(b.task, k[4])}".strip(), columns[k]) for b, k in keys])
    below += heads_text([(f"{k[2]} {fraction_name(b.task, k[4])}".strip(), columns[k]) for b, k in keys])
    below += unseen_text([(f"{k[2]} {fraction_name(b.task, k[4])}".strip(), columns[k]) for b, k in keys])
    below += ["\n".join(f"- [{mark}] {reason}" for reason, mark in notes.items())] if notes else []
    return "\n\n".join([text, *below])


def size_text(dataset: str, cells: pd.DataFrame, column: Column) -> str:
    """ "rsna 400 (Pneumonia 88)"; labels with few positives are marked."""
    tests = cells["n_test"].dropna()
    if not len(tests):
        return ""
    labels = [f"{name} {n}".strip() + (" **few**" if n < FEW else "") for name, n in column.positives.items()]
    return f"{dataset} {int(tests.iloc[0])}" + (f" ({', '.join(labels)})" if labels else "")


def unranked_text(columns: Sequence[tuple[str, Column]]) -> list[str]:
    """One sentence for each reason why columns are not ranked."""
    named: dict[str, list[str]] = {}
    for name, column in columns:
        if column.unranked:
            named.setdefault(column.unranked, []).append(name)
    said = [("every column" if len(n) == len(columns) else ", ".join(n), why) for why, n in named.items()]
    return [f"Not ranked, and nothing bold: {which}. Reason: {why}." for which, why in said]


def heads_text(columns: Sequence[tuple[str, Column]]) -> list[str]:
    """How many of the trained heads ended because validation stopped improving, where predictions say so."""
    said = [f"{name} {c.heads[0]} of {c.heads[1]}" for name, c in columns if c.heads[1]]
    if not said:
        return []
    return [f"Heads that ended by themselves (the others reached the protocol's maximum): {'; '.join(said)}."]


def unseen_text(columns: Sequence[tuple[str, Column]]) -> list[str]:
    """Columns whose label fraction is not what their trainings used: none saw all films that it had labels of."""
    said = [f"{name} {c.seen[0]} of {c.seen[1]}" for name, c in columns if c.seen[1]]
    return [f"Labelled films that a training saw at most, where none saw all: {'; '.join(said)}."] if said else []


def cell_text(cell: Any, column: Column, notes: dict[str, str]) -> str:
    """The printed cell; a cell without value gets the letter of its reason, which is added to ``notes``."""
    if cell["status"] != "ok":
        reason = f"{cell['status']}: {cell['reason']}"
        return f"{cell['status']} [{notes.setdefault(reason, letter(len(notes)))}]"
    text = f"{100 * cell['value']:.1f}"
    interval = f" [{100 * cell['ci_low']:.1f}, {100 * cell['ci_high']:.1f}]"
    interval = " [no interval]" if pd.isna(cell["ci_low"]) else interval  # fewer than two patients carry it
    text = f"**{text}**" if column.bold(str(cell.name)) else text
    return text + interval + ("" if pd.isna(cell["rank"]) else f" ({rank_text(cell['rank'], cell['rank_high'])})")


def rank_text(best: int, worst: int) -> str:
    """ "2" or "1–3"."""
    return f"{best}" if best == worst else f"{best}–{worst}"


def gap_text(column: Column) -> str:
    ranking = column.ranking
    if not ranking.pairs:
        return ""
    gap = "none" if np.isnan(ranking.smallest_gap) else f"{100 * ranking.smallest_gap:.1f}"
    return f"{gap} ({ranking.separable} of {ranking.pairs} pairs)"


def shares_text(column: Column) -> str:
    """ "60 / 10 / 30 %" of the methods' mean variance; "?" where there is one draw or one seed."""
    if np.isnan(column.shares).all():
        return ""
    return " / ".join("?" if np.isnan(share) else f"{100 * share:.0f}" for share in column.shares) + " %"


def task_csv(results: Results, name: str) -> pd.DataFrame:
    """The task's cells with the value scaled: 0 is ``floor`` (of ``floor_of``), 1 a perfect score."""
    cells = results.cells[results.cells["task"] == name].drop(columns=["seconds"])
    bounds = pd.DataFrame(
        [(*c.key, c.floor, c.floor_of) for c in results.columns],
        columns=[*KEY, "floor", "floor_of"],
    )
    merged = cells.merge(bounds, on=KEY, how="left")
    merged["scaled"] = scaled(merged["value"], merged["floor"])
    return merged.round(6)


def scaled(value: pd.Series, floor: pd.Series) -> pd.Series:
    """(value - floor) / (1 - floor); NaN where there is no floor or no room."""
    room = 1 - floor
    return (value - floor) / room.where(room > 0)
