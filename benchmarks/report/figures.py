"""Figures of a study: per task one small multiple for each protocol and data set, values with their intervals.

Where a task has several label fractions, a panel is the label-efficiency curve; else a dot for each row. Colours are
Okabe and Ito's, each with its own marker, so that the lines can be told apart without seeing colour. The files hold no
date and no version: the same cells give the same bytes on the same machine.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.cells import Results, fraction_name
from benchmarks.report.words import row_name
from mlip.study import Study

if TYPE_CHECKING:
    from benchmarks.plan import Block, Row

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = ("#555555", "#8A8A8A", "#B0B0B0")
PANEL = (3.6, 2.9)  # inches
LINE, LEGEND_LINE = 0.17, 0.21  # inches
TITLE = 42  # characters a line
OFF_SCALE = "empty-mask"  # the control that may lie far below all that is to be compared
GRID = "#E4E4E4"
SETTINGS: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "backend": "agg"
}  # fmt: skip


def file_name(task: str) -> str:
    return f"{task}.png"


def draw(study: Study, results: Results, folder: Path) -> None:
    """Write ``<task>.png`` for every task; a panel without values says what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in study.tasks:
        blocks = [b for b in results.blocks if b.task_name == name]
        write(
            folder / file_name(name),
            f"{blocks[0].task.title}. {study.note}",
            partial(task_figure, results.cells, blocks),
        )


def write(path: Path, heading: str, make: Callable[[], Figure]) -> None:
    """Make a figure in the project's style and write it under a heading."""
    with mpl.rc_context(mpl.rcParamsDefault | SETTINGS):
        figure = make()
        set_heading(figure, heading)
        figure.savefig(path, dpi=130, metadata={"Software": None})
        plt.close(figure)


def set_heading(figure: Figure, heading: str) -> None:
    """A heading whose room is added, so that it takes none from the panels and the legend beside them."""
    lines = textwrap.wrap(heading, int(14 * figure.get_figwidth()))
    figure.set_figheight(figure.get_figheight() + LINE * len(lines))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9)


def task_figure(cells: pd.DataFrame, blocks: list[Block]) -> Figure:
    """One panel for each protocol and data set of a task; to be closed by the caller."""
    protocols = list(dict.fromkeys(b.protocol_name for b in blocks))
    datasets = list(dict.fromkeys(b.dataset for b in blocks))
    curves = len(blocks[0].plan) > 1
    rows = len(blocks[0].rows)
    legend = (LEGEND_LINE * rows + 0.3) / len(protocols)  # beside the panels of all protocols
    height = max(PANEL[1], legend if curves else 0.32 * rows + 1)
    styles = row_styles(blocks[0].rows)
    figure, axes = plt.subplots(
        len(protocols), len(datasets), squeeze=False, layout="constrained",
        figsize=(PANEL[0] * len(datasets) + (1.9 if curves else 1.5), height * len(protocols)),
    )  # fmt: skip
    for block in blocks:
        ax = axes[protocols.index(block.protocol_name), datasets.index(block.dataset)]
        own = cells[
            (cells["task"] == block.task_name) & (cells["protocol"] == block.protocol_name)
            & (cells["dataset"] == block.dataset) & (cells["metric"] == block.specs[0].title)
        ]  # fmt: skip
        (_curves if curves else _dots)(ax, block, own, styles)
        protocol = f" ({block.protocol_name})" if len(protocols) > 1 else ""
        title = f"{block.dataset}: {block.specs[0].title}{protocol}"
        ax.set_title(textwrap.fill(title, TITLE), loc="left")
        if not (own["status"] == "ok").any():
            ax.text(0.5, 0.5, "nothing computed yet", transform=ax.transAxes, ha="center", va="center", color=GREY[0])
    if curves:
        handles = {
            label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        named = {row_name(row): handles[row_name(row)] for row in blocks[0].rows if row_name(row) in handles}
        if named:
            figure.legend(named.values(), named.keys(), loc="outside right center", frameon=False)
    else:
        for ax in axes[:, 1:].flat:
            ax.tick_params(labelleft=False)
    return figure


def row_styles(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each row; controls are grey and dashed."""
    styles: dict[str, dict[str, Any]] = {}
    methods = [r for r in rows if not r.control]
    for k, row in enumerate(methods):
        styles[row.name] = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)], "linestyle": "-"}
    for k, row in enumerate(r for r in rows if r.control):
        dashes = ("--", ":", "-.")[(k + k // len(GREY)) % 3]  # nine pairs before one comes again
        styles[row.name] = {"color": GREY[k % len(GREY)], "marker": MARKERS[-1 - k % len(MARKERS)], "linestyle": dashes}
    return styles


def bar(ax: Axes, value: float, low: float, high: float, place: int, colour: str, filled: bool = True) -> None:
    """A value on the line ``place``, with its interval where there is one."""
    if np.isfinite([low, high]).all():
        ax.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="round")
    ax.plot([value], [place], "o", color=colour, markersize=5.5, markerfacecolor=colour if filled else "none")


def _curves(ax: Axes, block: Block, cells: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    """Value against fraction; fractions are equally spaced, rows are shifted a little so that intervals stay legible."""
    places = {fraction: k for k, fraction in enumerate(sorted(block.plan))}
    shifts = np.linspace(-0.16, 0.16, len(block.rows))
    drawn = cells[cells["status"] == "ok"].set_index("method")
    if OFF_SCALE in drawn.index and drawn.loc[[OFF_SCALE], "value"].max() == 0 and len(drawn.index.unique()) > 1:
        # A Dice over films with the finding alone is 0 there by definition: a point on the scale would press the others together.
        name = row_name(next(row for row in block.rows if row.name == OFF_SCALE))
        ax.text(0.99, 0.01, f"{name}: 0", transform=ax.transAxes, ha="right", va="bottom", color=GREY[1], fontsize=8)
        cells = cells[cells["method"] != OFF_SCALE]
    for row, shift in zip(block.rows, shifts, strict=True):
        own = cells[(cells["method"] == row.name) & (cells["status"] == "ok")].sort_values("fraction")
        if own.empty:
            continue
        value, low, high = (100 * own[c].to_numpy(dtype=float) for c in ("value", "ci_low", "ci_high"))
        spread = np.maximum(np.stack([value - low, high - value]), 0)
        ax.errorbar(
            own["fraction"].map(places) + shift, value, yerr=spread, label=row_name(row), markersize=4.5, linewidth=1.3,
            elinewidth=0.9, capsize=1.5, zorder=2 if row.control else 3, **styles[row.name],
        )  # fmt: skip
    ax.set_xticks(list(places.values()), [fraction_name(block.task, f) for f in places])
    ax.set_xlim(-0.35, len(places) - 0.65)
    ax.set_xlabel("labels used" if block.task.fraction_unit == "%" else "labels per class")
    ax.grid(axis="y", color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)


def _dots(ax: Axes, block: Block, cells: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    """One line per row, first row on top."""
    for place, row in enumerate(block.rows):
        own = cells[(cells["method"] == row.name) & (cells["status"] == "ok")]
        if own.empty:
            other = cells.loc[cells["method"] == row.name, "status"]
            ax.text(
                0.01,
                place,
                "".join(other.head(1)),
                transform=ax.get_yaxis_transform(),
                va="center",
                color=GREY[1],
                fontsize=8,
            )
            continue
        value, low, high = (100 * float(own[c].iloc[0]) for c in ("value", "ci_low", "ci_high"))
        spread = [[max(value - low, 0)], [max(high - value, 0)]]
        ax.errorbar(
            value,
            place,
            xerr=spread,
            markersize=6,
            elinewidth=1.2,
            capsize=2,
            **{**styles[row.name], "linestyle": "none"},
        )
    ax.set_yticks(range(len(block.rows)), [row_name(row) for row in block.rows])
    ax.set_ylim(len(block.rows) - 0.5, -0.5)
    ax.grid(axis="x", color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)
