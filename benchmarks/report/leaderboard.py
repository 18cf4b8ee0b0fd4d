"""The leaderboard ``results/<study>.md`` and the cost page ``results/<study>/cost.md``."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmarks.analyses import false_negatives, maps
from benchmarks.analyses import parts as method_parts
from benchmarks.cells import Results, fraction_name
from benchmarks.report import figures, published
from benchmarks.report.table import metric_table, task_csv
from benchmarks.report.words import describe, how_to_read, older_code, row_name
from mlip.pretraining.checkpoints import read_card
from mlip.study import Study

if TYPE_CHECKING:
    from benchmarks.plan import Plan, Row

COST_COLUMNS = [
    "seconds", "samples_per_second", "steps", "pairs_seen", "parameters_image_encoder", "parameters_total",
]  # fmt: skip


def page(plan: Plan, results: Results) -> str:
    """The whole leaderboard. The first line is the study's data note."""
    study = plan.study
    parts = [
        study.note,
        f"# {study.title}",
        overview(plan, results),
        overview_notes(study, results),
        how_to_read(study),
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
    parts += [line for line in (maps.links(plan), false_negatives.link(plan), method_parts.link(plan)) if line]
    if not study.published:
        parts.append(published.NOT_COMPARABLE)
    return "\n\n".join(parts) + "\n"


def main_cells(results: Results) -> pd.DataFrame:
    """What the mean rank is taken over: the first metric under the first protocol of each task, at every fraction.

    The columns of ``cells.csv`` with ``floor``, ``ceiling`` and ``scaled``, and ``above`` (the method is separably better
    than every untrained encoder; None where there is none to compare with).
    """
    first: dict[str, str] = {}
    for block in results.blocks:
        first.setdefault(block.task_name, block.protocol_name)
    tables = pd.concat([task_csv(results, name) for name in first], ignore_index=True)
    mains = {
        (c.task, c.protocol, c.dataset, c.metric, c.fraction): c
        for c in results.columns
        if c.main and c.protocol == first[c.task]
    }
    keys = list(zip(*(tables[k] for k in ("task", "protocol", "dataset", "metric", "fraction")), strict=True))
    tables["above"] = [
        mains[key].above_controls.get(method) if key in mains else None
        for key, method in zip(keys, tables["method"], strict=True)
    ]
    return tables[[key in mains for key in keys]]


def overview(plan: Plan, results: Results) -> str:
    """One line per method, the lowest mean rank first; methods that are controls below."""
    cells, costs = main_cells(results), cost(plan).set_index("method")
    tops = {b.task_name: max(b.plan) for b in results.blocks}
    tasks = {b.task_name: b for b in reversed(results.blocks)}  # the first block of each
    order = list(plan.study.tasks)
    lines: list[tuple[tuple[bool, float], list[str]]] = []
    for row in results.blocks[0].rows:
        if row.entry is None and not row.fault:
            continue
        own = cells[cells["method"] == row.name]
        ranks = own["rank"].dropna().astype(float)
        mean = float(ranks.mean()) if len(ranks) else float("inf")
        about = [row.entry.encoder, row.entry.manifest.status] if row.entry else ["", "broken"]
        line = [row_name(row, results), *about, *_summary(row, own, ranks)]
        line += [_top(own[(own["task"] == name) & (own["fraction"] == tops[name])]) for name in order]
        lines.append(((row.control, mean), [*line, _cost_text(costs.loc[row.name]) if row.entry else ""]))
    lines.sort(key=lambda item: item[0])
    body: list[list[str]] = []
    for (control, _), line in lines:
        if control and "*Controls*" not in [b[0] for b in body]:
            body.append(["*Controls*", *[""] * (len(line) - 1)])
        body.append(line)
    head = ["method", "encoder", "status", "mean rank", "above untrained", "scaled"]
    head += [f"{tasks[name].task.title} {fraction_name(tasks[name].task, tops[name])}".strip() for name in order]
    return tabulate(body, headers=[*head, "pre-training"], tablefmt="github", disable_numparse=True)


def _summary(row: Row, own: pd.DataFrame, ranks: pd.Series) -> list[str]:
    """Mean rank, cells above the untrained encoders, mean of the scaled values."""
    values = own["scaled"].dropna()
    middle = f"{values.mean():.2f}" if len(values) else ""
    if row.control:
        return ["", "", middle]
    compared = own["above"].dropna()
    above = f"{int(compared.astype(bool).sum())} of {len(compared)}" if len(compared) else ""
    return [
        f"{ranks.mean():.2f} ({len(ranks)} of {len(own)} cells)" if len(ranks) else f"(0 of {len(own)} cells)",
        above,
        middle,
    ]


def _top(cells: pd.DataFrame) -> str:
    """Mean over data sets, or what keeps it from being there."""
    missing = cells.loc[cells["status"] != "ok", "status"]
    if len(missing):
        return "/".join(sorted(missing.unique()))
    return f"{100 * cells['value'].mean():.1f}"


def _cost_text(card: Any) -> str:
    if not card["seeds"]:
        return "pending"
    if not card["steps"] > 0:
        return "none"
    return f"{card['pairs_seen'] / 1e3:.1f} k pairs seen, {card['parameters_total'] / 1e6:.1f} M parameters"


def overview_notes(study: Study, results: Results) -> str:
    cells = main_cells(results)
    done = int((cells["status"] == "ok").sum())
    budget = study.pretrain
    shared = [
        f"recipe `{budget.recipe}`",
        f"{budget.epochs} epochs" if budget.epochs else "epochs of the recipe",
        f"batches of {budget.batch_size}" if budget.batch_size else "batch size of the recipe",
        f"{len(budget.seeds)} seed{'s' if len(budget.seeds) > 1 else ''}",
    ]
    protocols = ", ".join(f"{name} `{config.protocols[0]}`" for name, config in study.tasks.items())
    lines = [
        f"- {done} of {len(cells)} main cells (controls included) are computed; all cells: "
        f"[{study.study}/cells.csv]({study.study}/cells.csv).",
        "- Mean rank: over the cells of each task's first metric at every fraction and data set, under its first protocol "
        f"({protocols}). A method is ranked in the cells it has; how many these are stands beside it.",
        "- Above untrained: in how many of these cells the method is separably better than every untrained encoder.",
        "- Scaled: mean over these cells of (value − best control) / (ceiling − best control); 0 is what the controls "
        "reach, 1 the oracle control or a perfect score.",
        "- Task columns: the first metric, mean over the task's data sets, at the most labels.",
        f"- Pre-training budget: {', '.join(shared)}. Measured times: [{study.study}/cost.md]({study.study}/cost.md).",
    ]
    return "\n".join(lines)


def cost(plan: Plan) -> pd.DataFrame:
    """Pre-training cost per method, mean over seeds, from ``card.json``; a method without cards is pending.

    Columns: method, title, encoder, seeds (cards found), seconds, samples_per_second, steps, pairs_seen (steps times
    batch size), parameters_image_encoder, parameters_total; NaN where a card lacks the number. A card of another training
    than today's does not count.
    """
    records = []
    for name, entry in plan.rows.items():
        cards = []
        for seed in plan.study.pretrain.seeds:
            folder = plan.paths.pretrain(name, seed)
            if (folder / "card.json").is_file():
                card = read_card(folder)
                if card.get("fingerprint") == plan.training(name, seed).key:
                    batch = card.get("recipe", {}).get(
                        "batch_size", 0
                    )  # an untrained method has no recipe and no steps
                    cards.append({**card, "pairs_seen": card.get("steps", np.nan) * batch})
        numbers = {key: [float(c[key]) for c in cards if isinstance(c.get(key), int | float)] for key in COST_COLUMNS}
        means = {key: float(np.mean(found)) if found else float("nan") for key, found in numbers.items()}
        records.append({"method": name, "title": entry.title, "encoder": entry.encoder, "seeds": len(cards), **means})
    return pd.DataFrame(records, columns=["method", "title", "encoder", "seeds", *COST_COLUMNS])


def cost_page(plan: Plan) -> str:
    """Measured pre-training cost. Kept out of the leaderboard, whose bytes do not depend on the machine's speed."""
    study, lines = plan.study, list[list[str]]()
    for record in cost(plan).to_dict("records"):
        lines.append(
            [
                record["title"],
                record["encoder"],
                f"{record['seeds']} of {len(study.pretrain.seeds)}",
                *_measured(record),
            ]
        )
    head = [
        "method",
        "encoder",
        "seeds trained",
        "seconds",
        "samples/s",
        "steps",
        "image encoder (M)",
        "all parameters (M)",
    ]
    table = tabulate(lines, headers=head, tablefmt="github", disable_numparse=True)
    about = (
        "Mean over the seeds trained so far, on the machine that trained them (its description is in each `card.json`)."
    )
    return "\n\n".join([study.note, f"# Pre-training cost: {study.title}", table, about]) + "\n"


def _measured(record: dict[Any, Any]) -> list[str]:
    if not record["seeds"]:
        return ["pending"] + [""] * 4
    scaled_by = (("seconds", 1, 1), ("samples_per_second", 1, 1), ("steps", 1, 0),
                 ("parameters_image_encoder", 1e6, 2), ("parameters_total", 1e6, 2))  # fmt: skip
    return ["" if np.isnan(record[key]) else f"{record[key] / unit:.{digits}f}" for key, unit, digits in scaled_by]
