"""Everything a study prints: one page and one CSV per task, the cells, the leaderboard, the cost, the figures.

``build_tables`` reads predictions and nothing else (the cost page reads the training cards), and may be run at any
time: what is not there yet is printed as pending. The text holds no dates, paths or timings, so that the same
predictions give the same bytes.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from benchmarks.analyses import false_negatives, maps, parts
from benchmarks.cells import Results, compute, write_cells
from benchmarks.report import ablation, breakdown, cost, figures, leaderboard, pairs, published
from benchmarks.report.latex import task_tex
from benchmarks.report.made import MADE, made_json
from benchmarks.report.standing import standings
from benchmarks.report.table import metric_table, task_csv
from benchmarks.report.web import page as web
from benchmarks.report.words import describe, external_rows, how_to_read, older_code, settings
from benchmarks.tasks.catalogue import tasks

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def build_tables(plan: Plan, workers: int = 1) -> None:
    """Write ``results/<study>/*``, ``results/<study>.md`` and ``.html`` from the predictions that are there."""
    results, paths = compute(plan, workers), plan.paths
    paths.results.mkdir(parents=True, exist_ok=True)
    remove_outdated(plan)
    write_cells(results.cells, paths.cells)
    results.behind.round(6).to_csv(paths.results / "breakdown.csv", index=False)
    (paths.results / MADE).write_text(made_json(plan), encoding="utf-8")
    for name in plan.study.tasks:
        (paths.results / f"{name}.md").write_text(task_page(plan, results, name), encoding="utf-8")
        blocks = [b for b in results.blocks if b.task_name == name]
        tex = task_tex(results, blocks, plan.study.note, plan.study.statistics.level)
        (paths.results / f"{name}.tex").write_text(tex, encoding="utf-8")
        task_csv(results, name).to_csv(paths.results / f"{name}.csv", index=False)
    figures.draw(plan.study, results, paths.results / "figures")
    pairs.draw(results, paths.results / "figures", plan.study.note)
    ablation.draw(results, paths.results / "figures", plan.study.note, plan.study.statistics.level)
    (paths.results / "cost.md").write_text(cost.page(plan), encoding="utf-8")
    found = standings(results, plan.study.statistics.level)
    paths.leaderboard.write_text(leaderboard.page(plan, results, found), encoding="utf-8")
    paths.leaderboard.with_suffix(".html").write_text(web.page(plan, results, found), encoding="utf-8")


def remove_outdated(plan: Plan) -> None:
    """Delete pages and figures of tasks that the study no longer has, and of analyses of other code or configuration."""
    paths = plan.paths
    outdated = [
        path
        for name in set(tasks()) - set(plan.study.tasks)
        for path in (
            paths.results / f"{name}.md",
            paths.results / f"{name}.csv",
            paths.results / f"{name}.tex",
            paths.results / "figures" / f"{name}.png",
        )
    ]
    current = maps.current_rows(plan)
    outdated += [path for path in paths.maps.glob("*") if path.suffix in (".png", ".csv") and path.stem not in current]
    if not false_negatives.is_current(plan):
        outdated += [paths.false_negatives, paths.false_negatives.with_suffix(".csv")]
    if not parts.is_current(plan):
        outdated.append(paths.parts)
    for path in outdated:
        path.unlink(missing_ok=True)


def task_page(plan: Plan, results: Results, name: str) -> str:
    """The page of one task: for each protocol its description, then a table per metric."""
    study, blocks = plan.study, [b for b in results.blocks if b.task_name == name]
    parts = [study.note, f"# {blocks[0].task.title}: {study.title}"]
    for _, group in groupby(blocks, key=lambda b: b.protocol_name):
        members = list(group)
        parts += [describe(study, members), settings(members[0])]
        for index in range(max(len(b.specs) for b in members)):
            parts.append(metric_table(results, [b for b in members if len(b.specs) > index], index))
    parts += breakdown.sections(results, blocks)
    parts += [
        how_to_read(study),
        *external_rows(study, results),
        *older_code(results),
        published.section(plan, results, name),
    ]
    return "\n\n".join(parts) + "\n"
