"""Tables of a study: one page and one CSV per task, the cells, the leaderboard, the cost, the figures.

``build_tables`` reads predictions and nothing else (the cost page reads the training cards), and may be run at any
time: what is not there yet is printed as pending. The text holds no dates, paths or timings, so that the same
predictions give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pandas as pd
import yaml
from tabulate import tabulate

from benchmarks.cells import Block, Column, Results, Row, compute, fraction_name, write_cells
from benchmarks.report import published
from mlip.paths import StudyPaths
from mlip.study import Study

RECONSTRUCTION = "†"
Key = tuple[str, str, str, str, int]  # task, protocol, dataset, metric, fraction


def build_tables(study: Study) -> None:
    """Write ``results/<study>/*`` and ``results/<study>.md`` from the predictions that are there."""
    from benchmarks import figures, leaderboard  # both import this module

    results, paths = compute(study), StudyPaths(study)
    paths.results.mkdir(parents=True, exist_ok=True)
    write_cells(results.cells, paths.cells)
    for name in study.tasks:
        (paths.results / f"{name}.md").write_text(task_page(study, results, name))
        task_csv(results, name).to_csv(paths.results / f"{name}.csv", index=False)
    figures.draw(study, results, paths.results / "figures")
    (paths.results / "cost.md").write_text(leaderboard.cost_page(study))
    paths.leaderboard.write_text(leaderboard.page(study, results))


# --- pages ------------------------------------------------------------------------------------------------------------


def note(study: Study) -> str:
    """The first line of everything that is printed: what kind of data the numbers come from."""
    return " ".join(study.data_note.split())


def task_page(study: Study, results: Results, name: str) -> str:
    """The page of one task: for each protocol its description, then a table per metric."""
    blocks = [b for b in results.blocks if b.task_name == name]
    parts = [note(study), f"# {blocks[0].task.title}: {study.title}"]
    for _, group in groupby(blocks, key=lambda b: b.protocol_name):
        members = list(group)
        parts += [describe(study, members), settings(members[0])]
        for index in range(max(len(b.specs) for b in members)):
            parts.append(metric_table(results, [b for b in members if len(b.specs) > index], index))
    parts += [how_to_read(study), published.section(study, results, name)]
    return "\n\n".join(parts) + "\n"


def describe(study: Study, blocks: Sequence[Block]) -> str:
    """Protocol, lineage, quirks, the study's overrides, and how many draws, seeds and test images are behind the table."""
    block = blocks[0]
    protocol, config = block.protocol, study.tasks[block.task_name]
    lines = [f"## Protocol `{block.protocol_name}`: {protocol.title}", ""]
    lines.append(f"- Follows: {protocol.lineage or 'no paper, a protocol of our own'}")
    if protocol.quirks:
        lines += ["- Quirks kept:", *(f"  - {quirk}" for quirk in protocol.quirks)]
    else:
        lines.append("- Quirks kept: none")
    if config.budget:
        changed = ", ".join(f"`{key}` = {_plain(value)}" for key, value in config.budget.items())
        lines.append(f"- Budget of this study, overriding the protocol: {changed}")
    if block.task.fraction_unit:
        draws = ", ".join(f"{len(d)} at {fraction_name(block.task, f)}" for f, d in block.plan.items())
        lines.append(f"- Draws of the labels: {draws}")
    else:
        lines.append("- No labels are used")
    lines.append(f"- Pre-training seeds: {len(study.pretrain.seeds)}")
    return "\n".join(lines)


def settings(block: Block) -> str:
    """All values of the protocol, folded away."""
    values = block.protocol.model_dump(mode="json", exclude={"name", "title", "lineage", "quirks"})
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110).rstrip()
    return f"<details><summary>All settings</summary>\n\n```yaml\n{text}\n```\n\n</details>"


def how_to_read(study: Study) -> str:
    level = f"{100 * study.statistics.level:g} %"
    lines = [
        "## How to read",
        "",
        f"- Each cell: value × 100, its {level} interval, and (rank). The value is the mean over pre-training seeds and "
        "label draws.",
        f"- Interval: percentiles of {study.statistics.bootstrap} resamples of test patients, label draws and seeds "
        "(hierarchical bootstrap). Patients and draws are resampled alike for all methods, so differences are paired.",
        "- Rank: 1 + the number of methods that are separably better, i.e. whose paired difference has an interval above "
        "0. `=` marks a shared rank; **bold** is rank 1. Intervals are not adjusted for the number of pairs.",
        "- Smallest separable gap: the smallest difference between two methods that was separable, and how many pairs were.",
        "- Controls stand below the line and take no rank.",
        f"- {RECONSTRUCTION} reconstruction: built from the paper's description; agreement with the authors' numbers is not established.",
        "- pending, failed and skipped cells carry a letter that names the reason under the table.",
    ]
    if len(study.pretrain.seeds) == 1:
        lines.append("- There is ONE pre-training seed: the intervals do not hold the variation between trainings.")
    return "\n".join(lines)


# --- one table --------------------------------------------------------------------------------------------------------


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
        lines.append([row_name(row), *(cell_text(cells[k].loc[row.name], columns[k], notes) for _, k in keys)])
        previous = row
    lines.append(["*Smallest separable gap*", *(gap_text(columns[k]) for _, k in keys)])
    text = tabulate(lines, headers=head, tablefmt="github", disable_numparse=True)
    tests = {b.dataset: cells[k]["n_test"].dropna() for b, k in keys}
    sizes = ", ".join(f"{dataset} {int(n.iloc[0])}" for dataset, n in tests.items() if len(n))
    below = [f"Test images: {sizes}."] if sizes else []
    below += ["\n".join(f"- [{mark}] {reason}" for reason, mark in notes.items())] if notes else []
    return "\n\n".join([text, *below])


def row_name(row: Row) -> str:
    reconstruction = row.entry is not None and row.entry.manifest.status == "reconstruction"
    return row.title + (f" {RECONSTRUCTION}" if reconstruction else "")


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


def letter(number: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


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


def _plain(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()
