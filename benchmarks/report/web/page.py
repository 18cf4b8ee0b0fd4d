"""``results/<study>.html``: one file that works without network. Tables sort and filter (DataTables, carried by itables), plots are SVG.

Behind each number stand its interval, what its variance is made of, and the value of every seed: shown on demand.
"""

from __future__ import annotations

import base64
from collections import Counter
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from itables.utils import read_package_file
from markdown_it import MarkdownIt
from markupsafe import Markup

from benchmarks.analyses import maps
from benchmarks.cells import Column, Results, fraction_name
from benchmarks.related import ablated, on_shares
from benchmarks.report import ablation, breakdown, cost, leaderboard, looks, pairs
from benchmarks.report.made import made_on
from benchmarks.report.standing import Standings, main_columns, panels
from benchmarks.report.table import column_keys, rank_text
from benchmarks.report.web import films, plots
from benchmarks.report.words import external_rows, full_name, how_to_read, row_name
from benchmarks.scores.statistics import confidence

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan, Row

ALL = {  # heading of the table of all cells -> its column in cells.csv
    "task": "task", "protocol": "protocol", "data set": "dataset", "metric": "metric", "labels": "labels", "row": "row",
    "kind": "kind", "value": "value", "low": "ci_low", "high": "ci_high", "rank": "ranks", "above controls": "above_controls",
    "seeds": "seed_count", "draws": "draw_count", "test images": "n_test", "status": "status",
}  # fmt: skip

NAMED = 6  # rows that a sentence names; of more it says how many


def page(plan: Plan, results: Results, found: Standings) -> str:
    """The whole file."""
    study, level = plan.study, plan.study.statistics.level
    rows = list({row.name: row for block in results.blocks for row in block.rows}.values())
    ordered = sorted(
        (r for r in rows if r.entry is not None or r.fault),
        key=lambda r: (r.control, -found.estimates[r.name].value if r.name in found.estimates else 1e9),
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    here = files("benchmarks.report.web")
    template = environment.from_string((here / "template.html").read_text(encoding="utf-8"))
    data = {
        "study": study,
        "machine": made_on(plan),
        "summary": _summary(results, found, rows),
        "standing": _standing(plan, results, found, ordered),
        "standing_plot": plots.standing(found, rows, level) if found.estimates else "",
        "differences": _differences(results, rows, level),
        "ablation": plots.parts(results, level) if ablated(results.blocks) else "",
        "ablation_about": f"{ablation.ABOUT} Filled: {ablation.TOLD}",
        "pairs": plots.shares(results) if on_shares(results.blocks) else "",
        "pairs_about": pairs.ABOUT,
        "tasks": [
            _task(results, list(blocks), level) for _, blocks in groupby(results.blocks, key=lambda b: b.task_name)
        ],
        "about": breakdown.ABOUT,
        "cells": _cells(results, rows),
        "trainings": plots.trainings(plan),
        "drawn": films.drawn(plan),
        "maps": _maps(plan),
        "looks": looks.tables(plan),
        "looks_head": looks.HEAD,
        "looks_about": Markup(MarkdownIt().renderInline(looks.ABOUT)),
        "cost": cost.lines(plan),
        "cost_head": cost.HEAD,
        "reading": Markup(
            MarkdownIt().render("\n".join([*how_to_read(study).splitlines()[2:], "", *external_rows(study, results)]))
        ),
        "style": Markup((here / "style.css").read_text(encoding="utf-8")),
        "script": Markup((here / "script.js").read_text(encoding="utf-8")),
        "tables_style": Markup(read_package_file("html/dt_bundle.css")),
        "tables_script": base64.b64encode(read_package_file("html/dt_bundle.js").encode()).decode(),
    }
    return template.render(data)


def _summary(results: Results, found: Standings, rows: list[Row]) -> list[str]:
    """Who leads, by how much and how sure; and what there is no number of."""
    titles = {r.name: row_name(r) for r in rows}
    methods = sorted(found.ranking.ranks, key=lambda n: -found.estimates[n].value)
    said = []
    if methods:
        first = methods[0]
        best = [n for n in methods if found.ranking.ranks[n][0] == 1]
        value = f"{titles[first]} has the highest standing ({100 * found.estimates[first].value:.1f})"
        if len(best) == 1:
            said.append(f"{value}, separably above all others.")
        else:
            others = [titles[n] for n in best if n != first]
            who = ", ".join(others) if len(others) <= NAMED else f"{len(others)} others"
            said.append(f"{value}, but {who} cannot be told from first place.")
    elif found.estimates:
        said.append("Nothing is ranked: there is one training of each method, or one method.")
    else:
        said.append("No row has all main cells yet, so there is no standing.")
    columns = main_columns(results)
    pairs, told = sum(c.ranking.pairs for c in columns), sum(c.ranking.separable for c in columns)
    if pairs:
        said.append(f"Over the {len(columns)} main columns {told} of {pairs} pairs of methods can be told apart.")
    above = {n: sum(c.above_controls.get(n, False) for c in columns) for n in methods}
    if above:
        if len(above) <= NAMED:
            counts = ", ".join(f"{titles[n]} {k}" for n, k in above.items())
        else:
            counts = ", ".join(f"{n} rows {k}" for k, n in sorted(Counter(above.values()).items(), reverse=True))
        said.append(f"Separably above every control, of {len(columns)} columns: {counts}.")
    status = results.cells["status"].value_counts()
    lost = [f"{int(status[s])} {s}" for s in ("failed", "stale", "pending", "skipped") if s in status]
    said.append(
        f"{int(status.get('ok', 0))} of {len(results.cells)} cells have a number"
        + (f" ({', '.join(lost)})." if lost else ".")
    )
    return said


def _standing(plan: Plan, results: Results, found: Standings, rows: list[Row]) -> list[dict[str, Any]]:
    lines = []
    for row in rows:
        line: dict[str, Any] = {
            "title": full_name(row),
            "control": row.control,
            "status": row.entry.standing if row.entry else "broken",
        }
        line["encoder"] = row.entry.encoder if row.entry else ""
        if row.name in found.estimates:
            low, high = confidence(found.estimates[row.name], plan.study.statistics.level)
            line |= {"value": 100 * found.estimates[row.name].value, "low": 100 * low, "high": 100 * high}
            line["rank"] = rank_text(*found.ranking.ranks[row.name]) if row.name in found.ranking.ranks else ""
            line["bold"] = found.bold(row.name)
            line["seeds"] = _seeds(found.estimates[row.name].seeds)
        line["above"] = leaderboard.above_text(results, row)
        lines.append(line)
    return lines


def _seeds(values: np.ndarray) -> str:
    return ", ".join(f"{100 * v:.1f}" for v in values)


def _differences(results: Results, rows: list[Row], level: float) -> Markup:
    # Two lines over a narrow panel.
    columns = [(column, f"{task}\n{plots.short(measured, 34)}") for column, task, measured in panels(results)]
    shown = [(c, t) for c, t in columns if sum(r.name in c.estimates for r in rows if not r.control) > 1]
    if not shown:
        return Markup("")
    return plots.differences([c for c, _ in shown], [t for _, t in shown], rows, level)


def _task(results: Results, blocks: list[Block], level: float) -> dict[str, Any]:
    """Plot and tables of one task: for each protocol and metric a table of rows against data sets and labels."""
    tables = []
    for protocol, group in groupby(blocks, key=lambda b: b.protocol_name):
        members = list(group)
        for index in range(max(len(b.specs) for b in members)):
            same = [b for b in members if len(b.specs) > index]
            keys = [(b, results.column[key]) for b, key in column_keys(same, index)]
            head = [f"{c.dataset} {c.metric} {fraction_name(b.task, c.fraction)}".strip() for b, c in keys]
            lines = [
                {
                    "title": full_name(row),
                    "control": row.control,
                    "cells": [_cell(results, row, c, level) for _, c in keys],
                }
                for row in same[0].rows
            ]
            tables.append(
                {
                    "title": f"{members[0].protocol.title} ({protocol})",
                    "metric": ", ".join(dict.fromkeys(c.metric for _, c in keys)),
                    "head": head,
                    "rows": lines,
                    "first": index == 0,
                }
            )
    task = blocks[0].task
    return {
        "name": blocks[0].task_name,
        "title": task.title,
        "plot": plots.task(results, blocks),
        "tables": tables,
        "behind": breakdown.tables(results, blocks),
    }


def _cell(results: Results, row: Row, column: Column, level: float) -> dict[str, Any]:
    """``text``, ``order`` (the value to sort by), ``note`` (what stands behind it) and ``bold``."""
    if row.name not in column.estimates:
        own = results.by_column[column.key].loc[row.name]
        return {"text": str(own["status"]), "order": -1, "note": str(own["reason"]), "bold": False}
    found = column.estimates[row.name]
    low, high = confidence(found, level)
    variance = found.variance
    parts = [
        f"{source} {100 * np.sqrt(v):.1f}"
        for source in ("patients", "draws", "seeds")
        if np.isfinite(v := getattr(variance, source))
    ]
    note = [f"{level:.0%} interval {100 * low:.1f} to {100 * high:.1f}", f"standard errors × 100: {', '.join(parts)}"]
    if found.seeded:
        note.append(f"by seed: {_seeds(found.seeds)}")
    ranks = column.ranking.ranks.get(row.name)
    if ranks:
        note.append(f"rank {rank_text(*ranks)} of {len(column.ranking.ranks)}")
    if row.name in column.above_controls:
        note.append("above every control" if column.above_controls[row.name] else "not separably above every control")
    return {
        "text": f"{100 * found.value:.1f}",
        "order": f"{found.value:.6f}",
        "note": "\n".join(note),
        "bold": column.bold(row.name),
    }


def _cells(results: Results, rows: list[Row]) -> dict[str, Any]:
    """The table of all cells: ``head`` and ``lines`` of (text, order)."""
    titles = {r.name: r for r in rows}
    tasks = {b.task_name: b.task for b in results.blocks}
    table = results.cells.copy()
    table["labels"] = [fraction_name(tasks[t], f) for t, f in zip(table["task"], table["fraction"], strict=True)]
    table["row"] = [row_name(titles[m]) for m in table["method"]]
    table["kind"] = ["control" if titles[m].control else "method" for m in table["method"]]
    table["ranks"] = [
        "" if pd.isna(a) else rank_text(a, b) for a, b in zip(table["rank"], table["rank_high"], strict=True)
    ]
    lines = []
    for one in table.to_dict("records"):
        line: list[tuple[str, float | None]] = []
        for column in ALL.values():
            value = one[column]
            if column in ("value", "ci_low", "ci_high"):
                line.append(("", -1.0) if pd.isna(value) else (f"{100 * value:.1f}", float(value)))
            elif column == "above_controls":
                line.append(("" if pd.isna(value) else "yes" if value else "no", None))
            elif column == "status" and one["reason"]:
                line.append((f"{value}: {one['reason']}", None))
            else:
                line.append(("" if pd.isna(value) else str(value), None))
        lines.append(line)
    return {"head": list(ALL), "lines": lines}


def _maps(plan: Plan) -> list[dict[str, str]]:
    found = []
    for name in maps.current_rows(plan):
        path = plan.paths.maps / f"{name}.png"
        if path.is_file():
            found.append({"title": plan.rows[name].title, "png": base64.b64encode(path.read_bytes()).decode()})
    return found
