"""Data efficiency: values against the share of the pairs that a method was trained on, where a study has such rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.cells import Column, Results
from benchmarks.related import PAIRS, on_shares, share
from benchmarks.report.figures import GRID, PANEL, file_name, row_styles, write
from benchmarks.report.standing import panels
from benchmarks.report.words import row_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchmarks.plan import Row

FILE = file_name(PAIRS)
COLUMNS = 3  # panels side by side
ABOUT = (
    "The first metric of each task at the most labels, against the share of the training patients whose pairs were seen; as many steps "
    "with every share. Tokenizer and validation pairs are those of all."
)


def draw(results: Results, folder: Path, note: str) -> None:
    """Write ``pairs.png``, or remove an old one where the study has no such rows."""
    if not on_shares(results.blocks):
        (folder / FILE).unlink(missing_ok=True)
        return
    write(folder / FILE, f"Data efficiency. {note}", lambda: figure(results))


def section(results: Results, folder: str) -> list[str]:
    """What the leaderboard says of it."""
    if not on_shares(results.blocks):
        return []
    return ["# Data efficiency", ABOUT, f"![Data efficiency]({folder}/figures/{FILE})"]


def figure(results: Results) -> Figure:
    """A panel for each task and data set, a line for each method that was trained on several shares of the pairs."""
    groups = on_shares(results.blocks)
    main = panels(results)
    tall = -(-len(main) // COLUMNS)
    wide = min(COLUMNS, len(main))
    drawn, axes = plt.subplots(
        tall, wide, squeeze=False, layout="constrained", figsize=(PANEL[0] * wide + 1.9, PANEL[1] * tall + 0.5)
    )
    styles = row_styles([group[-1] for group in groups])
    shares = sorted({share(row) for group in groups for row in group})
    for ax, (column, task, measured) in zip(axes.flat, main, strict=False):
        for group, shift in zip(groups, np.linspace(-0.12, 0.12, len(groups)), strict=True):
            there = [row for row in group if row.name in column.estimates]
            if there:
                value, low, high = (
                    100 * np.array(v) for v in zip(*(_numbers(results, column, r) for r in there), strict=True)
                )
                places = np.array([shares.index(share(row)) for row in there]) + shift
                ax.errorbar(
                    places, value, yerr=np.maximum([value - low, high - value], 0), label=row_name(group[-1]), markersize=4.5,
                    linewidth=1.3, elinewidth=0.9, capsize=1.5, **styles[group[-1].name],
                )  # fmt: skip
        ax.set_title(f"{task}\n{measured}", loc="left")
        ax.set_xticks(range(len(shares)), [f"{share} %" for share in shares])
        ax.set_xlabel("training pairs")
        ax.grid(axis="y", color=GRID, linewidth=0.7)
        ax.set_axisbelow(True)
    for ax in list(axes.flat)[len(main) :]:
        ax.set_axis_off()
    handles, names = axes.flat[0].get_legend_handles_labels()
    if names:
        drawn.legend(handles, names, loc="outside right center", frameon=False)
    return drawn


def _numbers(results: Results, column: Column, row: Row) -> tuple[float, float, float]:
    cell: Any = results.by_column[column.key].loc[row.name]
    return float(cell["value"]), float(cell["ci_low"]), float(cell["ci_high"])
