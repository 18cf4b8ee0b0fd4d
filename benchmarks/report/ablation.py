"""Ablation: each full method minus the same without a part, in every main column of a study that has such rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from tabulate import tabulate

from benchmarks.cells import Column, Results, fraction_name
from benchmarks.related import ABLATION, ablated
from benchmarks.report.figures import COLOURS, GREY, GRID, bar, file_name, write
from benchmarks.report.standing import main_columns
from benchmarks.report.words import row_name
from benchmarks.scores import statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = file_name(ABLATION)
ACROSS = 3  # panels side by side
ABOUT = (
    "Value × 100 of the full method minus that of the same without a part, paired in patients and draws, with its interval (not adjusted); above 0, the "
    "part helps. The spread between trainings is pooled over the column's methods."
)
TOLD = "told apart from 0 after Holm's adjustment over the column."


@dataclass(frozen=True)
class Gain:
    """What a part brings in one column, and whether it is told apart from nothing."""

    value: float
    low: float
    high: float
    told: bool


def gains(results: Results, column: Column, level: float) -> dict[str, Gain]:
    """Row without a part -> what the part brings; rows that lack a cell are left out."""
    trained = {r.name for block in results.blocks for r in block.rows if not r.control}
    pool = statistics.Pool.of(e for name, e in column.estimates.items() if name in trained)
    found = {
        row.name: statistics.difference(column.estimates[full.name], column.estimates[row.name], pool)
        for full, row in ablated(results.blocks)
        if full.name in column.estimates and row.name in column.estimates
    }
    p = [d.p for d in found.values()]
    told = statistics.holm(p) <= 1 - level if p and np.isfinite(p).all() else [False] * len(p)
    return {
        name: Gain(d.value, *d.interval(level), bool(apart))
        for (name, d), apart in zip(found.items(), told, strict=True)
    }


def draw(results: Results, folder: Path, note: str, level: float) -> None:
    """Write ``ablation.png``, or remove an old one where the study has no such rows."""
    if not ablated(results.blocks):
        (folder / FILE).unlink(missing_ok=True)
        return
    write(folder / FILE, f"What each part brings. {note}", lambda: figure(results, level))


def section(results: Results, folder: str, level: float) -> list[str]:
    """What the leaderboard says of it."""
    if not ablated(results.blocks):
        return []
    return [
        "# What each part brings",
        f"{ABOUT} **Bold**: {TOLD}",
        _table(results, level),
        f"![What each part brings]({folder}/figures/{FILE})",
    ]


def _table(results: Results, level: float) -> str:
    columns = main_columns(results)
    by_column = [gains(results, column, level) for column in columns]
    lines = [
        [row_name(row), *(_text(found.get(row.name)) for found in by_column)] for _, row in ablated(results.blocks)
    ]
    return tabulate(lines, headers=["without", *_titles(results, columns)], tablefmt="github", disable_numparse=True)


def _text(gain: Gain | None) -> str:
    if gain is None:
        return ""
    value = f"{100 * gain.value:+.1f}"
    interval = f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]" if np.isfinite(gain.low) else "[no interval]"
    return f"**{value}** {interval}" if gain.told else f"{value} {interval}"


def _titles(results: Results, columns: list[Column]) -> list[str]:
    tasks = {block.task_name: block.task for block in results.blocks}
    labels = [fraction_name(tasks[c.task], c.fraction) or c.task.replace("_", "-") for c in columns]
    return [f"{c.dataset} {c.metric} {label}" for c, label in zip(columns, labels, strict=True)]


def figure(results: Results, level: float) -> Figure:
    """A panel for each main column, a line for each row without a part; filled where told apart. To be closed by the caller."""
    columns, shown = main_columns(results), ablated(results.blocks)
    methods = list(dict.fromkeys(full.name for full, _ in shown))
    across, down = min(ACROSS, len(columns)), -(-len(columns) // ACROSS)
    found, axes = plt.subplots(
        down, across, squeeze=False, layout="constrained", sharey=True,
        figsize=(2.3 * across + 3.2, (0.27 * len(shown) + 0.7) * down),
    )  # fmt: skip
    for ax, column, title in zip(axes.flat, columns, _titles(results, columns), strict=False):
        values = gains(results, column, level)
        ax.axvline(0, color=GREY[1], linewidth=0.8)
        for place, (full, row) in enumerate(shown):
            if row.name not in values:
                continue
            one, colour = values[row.name], COLOURS[methods.index(full.name) % len(COLOURS)]
            bar(ax, 100 * one.value, 100 * one.low, 100 * one.high, place, colour, one.told)
        ax.set_title(title, loc="left", fontsize=8)
        ax.set_yticks(range(len(shown)), [row_name(row) for _, row in shown])
        ax.set_ylim(len(shown) - 0.5, -0.5)
        ax.grid(axis="x", color=GRID, linewidth=0.7)
        ax.set_axisbelow(True)
    for ax in list(axes.flat)[len(columns) :]:
        ax.set_axis_off()
    found.supxlabel("full method minus the row, × 100: right of 0 the part helps", fontsize=8)
    return found
