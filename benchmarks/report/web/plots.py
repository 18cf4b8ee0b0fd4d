"""Plots of the page as SVG whose ink follows the page's colours, light or dark."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from benchmarks.cells import Column, Results
from benchmarks.report import ablation, pairs
from benchmarks.report.figures import COLOURS, GREY, GRID, SETTINGS, bar, row_styles, task_figure
from benchmarks.report.made import training_cards
from benchmarks.report.standing import Standings
from benchmarks.report.words import row_name
from benchmarks.scores import statistics

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan, Row

INK = "#010203"  # stands for the page's text colour; no plot has it otherwise
INKED = {
    key: INK
    for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
}
THEME = {INK: "currentColor", "#000000": "currentColor", GRID.lower(): "var(--line)"}


def short(title: str, most: int) -> str:
    """The title, or its beginning where it is longer."""
    return title if len(title) <= most else title[: most - 1] + "…"


def svg(draw: Callable[[], Figure], name: str, title: str) -> Markup:
    """The figure that ``draw`` makes, as an ``<svg>`` element: text as text, no metadata, ids of its own.

    Parameters
    ----------
    name : unique on the page. title : what it shows, for those who do not see it.
    """
    settings = SETTINGS | INKED | {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    with mpl.rc_context(mpl.rcParamsDefault | settings):
        figure = draw()
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font: \1px var(--font)", text)
    for colour, variable in THEME.items():
        text = text.replace(colour, variable)
    # Black is SVG's own default and is not written out: shapes and text take the page's colour.
    width, height = (float(v) for v in re.findall(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', text)[0])
    head = f'<svg role="img" aria-label="{title}" style="max-width:{width * 1.25:.0f}px" viewBox="0 0 {width:g} {height:g}" fill="currentColor" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Markup(re.sub(r"<svg[^>]*", head, text, count=1))


def task(results: Results, blocks: list[Block]) -> Markup:
    """Label-efficiency curves, or a dot for each row."""
    name = blocks[0].task_name
    return svg(
        lambda: task_figure(results.cells, blocks), f"task-{name}", f"{blocks[0].task.title}: values with intervals"
    )


def standing(found: Standings, rows: Sequence[Row], level: float) -> Markup:
    """Standing of each row with its interval, the highest on top."""
    there = sorted((r for r in rows if r.name in found.estimates), key=lambda r: -found.estimates[r.name].value)
    styles = row_styles(rows)

    def draw() -> Figure:
        figure, ax = plt.subplots(figsize=(6.4, 0.36 * len(there) + 0.9), layout="constrained")
        for place, row in enumerate(there):
            estimate = found.estimates[row.name]
            low, high = statistics.confidence(estimate, level)
            bar(ax, 100 * estimate.value, 100 * low, 100 * high, place, styles[row.name]["color"])
        ax.set_yticks(range(len(there)), [row_name(r) for r in there])
        ax.set_ylim(len(there) - 0.5, -0.5)
        ax.axvline(0, color=GREY[1], linewidth=0.8)
        ax.set_xlabel("standing: 0 is the floor, 100 a perfect score")
        ax.grid(axis="x", color=GRID, linewidth=0.7)
        return figure

    return svg(draw, "standing", "Standing of each row with its interval")


def differences(columns: Sequence[Column], titles: Sequence[str], rows: Sequence[Row], level: float) -> Markup:
    """Each method minus the one of the highest value, paired, one panel for each column; filled where Holm tells them apart."""
    methods = [r for r in rows if not r.control]
    styles = row_styles(rows)
    height = 0.27 * len(methods) + 1.0

    def draw() -> Figure:
        across = min(3, len(columns))
        down = -(-len(columns) // across)
        figure, axes = plt.subplots(
            down, across, figsize=(2.5 * across + 1.6, height * down), squeeze=False, layout="constrained", sharey=True
        )
        for ax, column, title in zip(axes.flat, columns, titles, strict=False):
            there = {r.name: column.estimates[r.name] for r in methods if r.name in column.estimates}
            ax.set_title(title, loc="left", fontsize=8)
            ax.axvline(0, color=GREY[1], linewidth=0.8)
            if len(there) > 1:
                best = max(there, key=lambda n: there[n].value)
                pool = statistics.Pool.of(there.values())
                for place, row in enumerate(methods):
                    if row.name not in there:
                        continue
                    one = statistics.difference(there[row.name], there[best], pool)
                    low, high = one.interval(level) if row.name != best else (0.0, 0.0)
                    told = (best, row.name) in column.ranking.better
                    bar(
                        ax,
                        100 * one.value,
                        100 * low,
                        100 * high,
                        place,
                        styles[row.name]["color"],
                        filled=told or row.name == best,
                    )
            ax.set_yticks(range(len(methods)), [row_name(r) for r in methods])
            ax.set_ylim(len(methods) - 0.5, -0.5)
            ax.grid(axis="x", color=GRID, linewidth=0.7)
        for ax in list(axes.flat)[len(columns) :]:
            ax.set_visible(False)
        return figure

    return svg(draw, "differences", "Differences to the best method of each column")


def parts(results: Results, level: float) -> Markup:
    """Each full method minus the same without a part."""
    return svg(
        lambda: ablation.figure(results, level),
        "ablation",
        "Differences of each full method to the same without a part",
    )


def shares(results: Results) -> Markup:
    """Values against the share of the pairs that a method was trained on."""
    return svg(lambda: pairs.figure(results), "pairs", "Values against the share of the training pairs")


def trainings(plan: Plan) -> Markup:
    """Total loss of each trained row: every seed a line, in units of its first ten steps; "" where nothing is trained."""
    curves = {}
    for name, entry in plan.rows.items():
        if entry.trained and training_cards(plan, name):
            folders = [plan.paths.pretrain(name, seed) / "metrics.jsonl" for seed in entry.seeds(plan.study)]
            lines = [
                [json.loads(line)["loss"] for line in f.read_text(encoding="utf-8").splitlines()]
                for f in folders
                if f.is_file()
            ]
            curves[entry.title] = [np.array(line) for line in lines if len(line) > 10]
    curves = {title: lines for title, lines in curves.items() if lines}
    if not curves:
        return Markup("")

    def draw() -> Figure:
        across = min(4, len(curves))
        down = -(-len(curves) // across)
        figure, axes = plt.subplots(
            down,
            across,
            figsize=(2.2 * across + 0.6, 1.9 * down + 0.3),
            squeeze=False,
            layout="constrained",
            sharey=True,
        )
        for ax, (title, lines) in zip(axes.flat, curves.items(), strict=False):
            for line, colour in zip(lines, COLOURS[:5], strict=False):
                smooth = np.convolve(line / line[:10].mean(), np.ones(9) / 9, mode="valid")
                ax.plot(np.arange(len(smooth)) + 5, smooth, color=colour, linewidth=1.1)
            ax.set_title(short(title, 35), loc="left", fontsize=8)
            ax.grid(axis="y", color=GRID, linewidth=0.7)
        for ax in list(axes.flat)[len(curves) :]:
            ax.set_visible(False)
        figure.supxlabel("step", fontsize=8)
        figure.supylabel("loss / its first ten steps", fontsize=8)
        return figure

    return svg(draw, "trainings", "Training loss of each row, a line for each seed")
