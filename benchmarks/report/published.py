"""What papers report (``benchmarks/published/*.csv``), and how our cells compare; for studies that set ``published: true``.

The column ``dataset`` names the data set as protocols do: by its reader, and ``/`` its subset.

Each row names where the number was read and its provenance tag: S a secondary page about the paper, T another paper's
text, SIB a sibling work by the same authors, P2 read in another paper (second-hand), P the paper itself, C official
code, I a public issue, Q a stored copy, N a reading note on another paper (third-hand), seed a seed document. Numbers from memory (M) are refused. Values are percent;
fraction 0 means that nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tabulate import tabulate

from benchmarks.cells import KEY, Results
from benchmarks.tasks.shared.task import MetricSpec
from mlip.errors import UserError
from mlip.paths import ROOT
from mlip.study import Study, parse_study

if TYPE_CHECKING:
    from benchmarks.plan import Plan

FOLDER = ROOT / "benchmarks" / "published"
COLUMNS = ["method", "title", "encoder", "protocol", "task", "dataset", "metric", "fraction", "value", "source", "tag"]
TAGS = {"P", "S", "T", "C", "I", "seed", "SIB", "Q", "P2", "N"}
# Points of a difference that is none. Re-runs of one method that other papers print lie up to a point of AUROC, and about two of
# accuracy, mAP and Dice, from its own (docs/tables.md).
MARGINS = {"auroc": 1.0}
MARGIN = 2.0
OWN_TEST_PART = ("official", "test_only")  # rules that test on the part that the release itself names
# What tells apart two of our metrics of one key: the papers' Dice gives an empty truth 1 or 0, their mAP is over all IoUs.
AS_PUBLISHED: dict[str, dict[str, Any]] = {"dice": {"empty": "one_if_empty"}, "map": {"at": None}}
OTHER = "other protocol: "
OTHER_FILMS = "other test films"
HEAD = "## Published values"
NOT_COMPARABLE = (
    f"{HEAD}\n\nNot shown: this study does not set `published: true`, which says that its data are those of the papers."
)


@cache
def read_published(folder: Path = FOLDER) -> pd.DataFrame:
    """All published numbers, columns ``COLUMNS``.

    Raises
    ------
    UserError : a file lacks a column, or a row lacks its source, is from memory, or is no percentage.
    """
    tables = []
    for path in sorted(folder.glob("*.csv")):
        table = pd.read_csv(
            path, dtype={c: str for c in COLUMNS if c not in ("fraction", "value")}, keep_default_na=False
        )
        if list(table.columns) != COLUMNS:
            raise UserError(f"has the columns {list(table.columns)}", where=path, fix=f"use {COLUMNS}")
        wrong = table[~table["tag"].isin(TAGS) | (table["source"] == "") | ~table["value"].between(0, 100)]
        if len(wrong):
            row = wrong.iloc[0]
            raise UserError(
                f"line {wrong.index[0] + 2} ({row['title']}, {row['value']}) has no usable tag, source or value",
                where=path,
                fix=f"name the source and one of the tags {sorted(TAGS)}; leave out numbers from memory",
            )
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def compare(plan: Plan, cells: pd.DataFrame, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Each published number that has a row in this study, beside ours.

    A published row belongs to a method of the same id with its default components and parameters, and the same encoder
    (a source that does not state it is compared with the method's preferred one). Columns: task, dataset, metric,
    fraction, method (our row), published (the source's name for it), protocol (ours), reported, ours, ci_low, ci_high
    (all percent), difference (ours - reported), verdict, source, tag.

    The verdict is one of equivalence, with a margin (``MARGINS``): ``agrees`` where our whole interval lies within the margin of
    the reported value, ``ours higher`` / ``ours lower`` where all of it lies beyond, else ``cannot be told``; with ``other protocol:``
    in front where ours is not the one of the source. Where the source tested on other films than this study there is none:
    ``other test films``. Without our value it is the cell's status.
    """
    index: Any = cells.set_index([*KEY, "method"])
    records = []
    rows: Any = (read_published() if table is None else table).itertuples()
    for row in rows:
        names = our_rows(plan, str(row.method), str(row.encoder))
        for block in plan.blocks:
            if block.task_name != row.task or block.source.key([row.dataset]) is None or row.fraction not in block.plan:
                continue
            title = matching_title(block.specs, str(row.metric))
            for name in names if title else []:
                cell = index.loc[(block.task_name, block.protocol_name, block.dataset, title, row.fraction, name)]
                ours, low, high = (100 * float(cell[c]) for c in ("value", "ci_low", "ci_high"))
                verdict = str(cell["status"])
                if verdict == "ok" and plan.study.datasets[block.dataset].split not in (row.protocol, *OWN_TEST_PART):
                    verdict = OTHER_FILMS
                elif verdict == "ok":
                    margin = MARGINS.get(str(row.metric), MARGIN)
                    said = equivalence(low - row.value, high - row.value, margin)
                    verdict = ("" if block.protocol_name == row.protocol else OTHER) + said
                records.append(
                    (row.task, block.dataset, title, row.fraction, name, row.title, block.protocol_name, row.value, ours, low, high,
                     ours - row.value, verdict, row.source, row.tag)
                )  # fmt: skip
    columns = [
        "task",
        "dataset",
        "metric",
        "fraction",
        "method",
        "published",
        "protocol",
        "reported",
        "ours",
        "ci_low",
        "ci_high",
    ]
    return pd.DataFrame(records, columns=[*columns, "difference", "verdict", "source", "tag"])


def equivalence(low: float, high: float, margin: float) -> str:
    """What the interval [low, high] of a difference (ours - reported) says of it (two one-sided tests, Schuirmann 1987)."""
    if low >= -margin and high <= margin:
        return "agrees"
    if low > margin:
        return "ours higher"
    return "ours lower" if high < -margin else "cannot be told"


def our_rows(plan: Plan, method: str, encoder: str) -> list[str]:
    """Rows of the study that are this published method, unchanged."""
    names = []
    for name, entry in plan.rows.items():
        variant = plan.study.methods.variants.get(name)
        changed = variant is not None and (variant.components or variant.params)
        wanted = encoder or entry.manifest.encoders.prefers
        if entry.manifest.id == method and not changed and entry.encoder == wanted:
            names.append(name)
    return names


def matching_title(specs: Sequence[MetricSpec], key: str) -> str:
    """The printed name of the metric that means what papers mean by ``key``, or ""."""
    wanted = AS_PUBLISHED.get(key, {})
    fits = (s for s in specs if s.key == key and all(s.args.get(name) == value for name, value in wanted.items()))
    return next((spec.title for spec in fits), "")


def against_papers(
    made: dict[str, Any], cells: pd.DataFrame, folder: Path, plan_of: Callable[[Study], Plan]
) -> pd.DataFrame:
    """:func:`compare` for a folder ``results/<study>``: what its ``made.json`` holds, its cells, and a folder of published tables.

    ``plan_of`` resolves a study without looking at its data.

    Raises
    ------
    UserError : the study's data are not those of the papers, or this checkout no longer has one of its methods, tasks or data
        sets' readers.
    """
    raw = made["study"]
    known = {
        name: {**config, "root": name} for name, config in raw["datasets"].items()
    }  # where the films lay is not kept
    study = parse_study({**raw, "datasets": known}, where=raw["study"])
    if not study.published:
        raise UserError(
            "its data are not those that papers report on", where=study.study, fix="set `published: true` if they are"
        )
    return compare(plan_of(study), cells, read_published(folder))


def is_published(folder: Path) -> bool:
    """Whether a folder holds published tables (and not a run's results)."""
    return folder.is_dir() and not (folder / "cells.csv").exists() and any(folder.glob("*.csv"))


def papers_page(table: pd.DataFrame, folder: Path) -> str:
    """The comparison of a folder with papers as Markdown."""
    counts = table["verdict"].value_counts()
    said = ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) or "none belongs to a row of this study"
    parts = [f"# {folder} against published values", f"- Published cells: {said}."]
    return "\n\n".join([*parts, *([printed(table)] if len(table) else [])]) + "\n"


def section(plan: Plan, results: Results, task: str) -> str:
    """The part of a page that speaks of published values: the comparison, or why there is none."""
    if not plan.study.published:
        return NOT_COMPARABLE
    table = compare(plan, results.cells)
    rows: Any = table[table["task"] == task]
    if rows.empty:
        return f"{HEAD}\n\nNo published value with a verified source belongs to a row of this study."
    return f"{HEAD}\n\n{printed(rows)}"


def printed(table: pd.DataFrame) -> str:
    """What :func:`compare` gives as Markdown, with what the verdicts mean."""
    rows: Any = table.itertuples()
    lines = [
        [f"{r.dataset} {r.metric} {r.fraction or ''}".strip(), r.published, r.method, r.protocol, f"{r.reported:.1f}",
         f"{r.ours:.1f} [{r.ci_low:.1f}, {r.ci_high:.1f}]" if r.ours == r.ours else "",
         f"{r.difference:+.1f}" if r.ours == r.ours else "", r.verdict, f"{r.source} [{r.tag}]"]
        for r in rows
    ]  # fmt: skip
    columns = ["cell", "published as", "our row", "our protocol", "reported", "ours", "difference", "verdict", "source"]
    text = tabulate(lines, headers=columns, tablefmt="github", disable_numparse=True)
    legend = (
        f"agrees: our whole interval lies within {MARGINS['auroc']:g} point of AUROC, {MARGIN:g} points of any other metric, of the reported "
        "value; ours higher, ours lower: all of it lies beyond that; other test films: the study's split is not the source's, so nothing "
        "is said. A reported value is taken as exact, as its papers print no interval. Tags: docs/tables.md."
    )
    return f"{text}\n\n{legend}"
