"""The leaderboard ``results/<study>.md``."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from tabulate import tabulate

from benchmarks.analyses import false_negatives
from benchmarks.analyses import parts as method_parts
from benchmarks.cells import Column, Results
from benchmarks.report import ablation, figures, looks, pairs, published
from benchmarks.report.cost import cost
from benchmarks.report.made import made_on
from benchmarks.report.standing import Standings, complete, main_columns, top_columns
from benchmarks.report.table import metric_table, rank_text
from benchmarks.report.words import describe, external_rows, full_name, how_to_read, older_code
from benchmarks.scores.statistics import confidence
from mlip.study import Study

if TYPE_CHECKING:
    from benchmarks.plan import Plan, Row


def page(plan: Plan, results: Results, found: Standings) -> str:
    """The whole leaderboard. The first line is the study's data note."""
    study = plan.study
    machine = made_on(plan)
    parts = [
        study.note,
        f"# {study.title}",
        *([f"Trained on: {machine}."] if machine else []),
        overview(plan, results, found),
        overview_notes(study, results, found),
        how_to_read(study),
        *external_rows(study, results),
        *older_code(results),
    ]
    folder = study.study
    for name, group in groupby(results.blocks, key=lambda b: b.task_name):
        blocks = list(group)
        parts.append(f"# {blocks[0].task.title}")
        for _, members in groupby(blocks, key=lambda b: b.protocol_name):
            same = list(members)
            parts += [describe(study, same), metric_table(results, same, 0)]
        parts.append(f"![{blocks[0].task.title}]({folder}/figures/{figures.file_name(name)})")
        parts.append(f"Settings and further metrics: [{folder}/{name}.md]({folder}/{name}.md)")
        if study.published:
            parts.append(published.section(plan, results, name))
    parts += ablation.section(results, folder, study.statistics.level)
    parts += pairs.section(results, folder)
    parts += looks.section(plan)
    parts += [line for line in (false_negatives.link(plan), method_parts.link(plan)) if line]
    if not study.published:
        parts.append(published.NOT_COMPARABLE)
    return "\n\n".join(parts) + "\n"


def overview(plan: Plan, results: Results, found: Standings) -> str:
    """One line per method, the highest standing first; below, rows that lack cells, and methods that are controls."""
    costs = cost(plan).set_index("method")
    tops = top_columns(results)
    groups: dict[str, list[tuple[float, list[str]]]] = {"": [], "*Without all cells*": [], "*Controls*": []}
    for row in results.blocks[0].rows:
        if row.entry is None and not row.fault:
            continue
        about = [row.entry.encoder, row.entry.standing] if row.entry else ["", "broken"]
        line = [full_name(row, results), *about, _standing_text(plan, found, row), above_text(results, row)]
        line += [_top(results, group, row) for group in tops.values()]
        line.append(_cost_text(costs.loc[row.name]) if row.entry else "")
        there = complete(results, row)
        group = "*Controls*" if row.control else "" if there else "*Without all cells*"
        value = found.estimates[row.name].value if row.name in found.estimates else float("-inf")
        groups[group].append((-value, line))
    head = ["method", "encoder", "status", "standing", "above every control", *tops, "pre-training"]
    body: list[list[str]] = []
    for title, lines in groups.items():
        if lines and title:
            body.append([title, *[""] * (len(head) - 1)])
        body += [line for _, line in sorted(lines, key=lambda item: item[0])]
    return tabulate(body, headers=head, tablefmt="github", disable_numparse=True)


def _standing_text(plan: Plan, found: Standings, row: Row) -> str:
    """ "**42** [38, 46] (1–2)" """
    if row.name not in found.estimates:
        return ""
    estimate = found.estimates[row.name]
    low, high = confidence(estimate, plan.study.statistics.level)
    text = f"{100 * estimate.value:.1f}"
    text = f"**{text}**" if found.bold(row.name) else text
    ranks = found.ranking.ranks.get(row.name)
    return f"{text} [{100 * low:.1f}, {100 * high:.1f}]" + (f" ({rank_text(*ranks)})" if ranks else "")


def above_text(results: Results, row: Row) -> str:
    """In how many main columns, of those where that can be said, a method is above every control."""
    said = [c.above_controls[row.name] for c in main_columns(results) if row.name in c.above_controls]
    return f"{sum(said)} of {len(said)}" if said else ""


def _top(results: Results, columns: list[Column], row: Row) -> str:
    """Mean over data sets, or what keeps it from being there."""
    if all(row.name in c.estimates for c in columns):
        return f"{100 * np.mean([c.estimates[row.name].value for c in columns]):.1f}"
    return "/".join(sorted(results.statuses(row.name, columns) - {"ok"}))


def _cost_text(card: Any) -> str:
    if not card["seeds"]:
        return "pending"
    if not card["steps"] > 0:
        return "none"
    return f"{card['pairs_seen'] / 1e3:.1f} k pairs seen, {card['parameters_total'] / 1e6:.1f} M parameters"


def overview_notes(study: Study, results: Results, found: Standings) -> str:
    columns = main_columns(results)
    done, budget = sum(len(c.estimates) for c in columns), study.pretrain
    cells = sum(
        len(b.rows) for c in columns for b in results.blocks if (b.task_name, b.protocol_name, b.dataset) == c.key[:3]
    )
    shared = [
        f"recipe `{budget.recipe}`",
        f"{budget.epochs} epochs" if budget.epochs else "epochs of the recipe",
        f"batches of {budget.batch_size}" if budget.batch_size else "batch size of the recipe",
        f"{len(budget.seeds)} seed{'s' if len(budget.seeds) > 1 else ''}",
    ]
    protocols = ", ".join(f"{name} `{config.protocols[0]}`" for name, config in study.tasks.items())
    floors = ", ".join(dict.fromkeys(c.floor_of for c in found.counted))
    lines = [
        f"- {done} of {cells} main cells (controls included) are computed; all cells: "
        f"[{study.study}/cells.csv]({study.study}/cells.csv).",
        "- Standing: mean of (value − floor) / (1 − floor) in percent, over the first metric of each task under its first protocol "
        f"({protocols}), at every data set and fraction; each task has one vote. The floor is {floors or 'not there yet'}. "
        "Its interval and ranks are made as in the tables below. Rows without all these cells have none and stand apart.",
        "- Above every control: in how many of these columns the method is separably better than each control.",
        "- Task columns: mean over the task's data sets of one metric, at the most labels.",
        f"- Pre-training budget: {', '.join(shared)}. Measured times: [{study.study}/cost.md]({study.study}/cost.md).",
    ]
    named: dict[str, list[str]] = {}
    for name, why in found.left_out.items():
        named.setdefault(why, []).append(name)
    lines += [f"- No vote in the standing: {', '.join(names)} ({why})." for why, names in named.items()]
    return "\n".join(lines)
