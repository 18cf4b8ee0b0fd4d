"""Contrasts of rows in one study: what they come to, from its predictions, or as kept in ``results/<study>/contrasts.json``.

The claims speak of three studies, which take hours. What each of them says lies beside its tables, with the fingerprint of
the predictions and of the code that made it, so that they need not be computed at one place or in one sitting; of another
making it is not used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field, TypeAdapter

from benchmarks.analyses import false_negatives
from benchmarks.cells import Column, Results, compute, fraction_name
from benchmarks.report.made import made_on
from benchmarks.report.words import row_name
from benchmarks.scores import statistics
from mlip.errors import UserError
from mlip.source_code import code_of, digest
from mlip.study import Strict

if TYPE_CHECKING:
    from benchmarks.plan import Plan


class Contrast(Strict):
    """Whether ``row`` is ahead of every row of ``against`` in one task of one study."""

    study: str = Field(description="its name; read from config/<study>.yaml")
    row: str
    against: list[str] = Field(min_length=1)
    task: str = Field(description="a task of the study, or `false_negatives`, the analysis")
    metric: str = Field("", description="the task's first metric where empty")
    datasets: list[str] = Field(default_factory=list, description="all of the task where empty")
    fractions: list[int] = Field(default_factory=list, description="all of the task where empty")
    margin: float = Field(0.01, gt=0, description="a gain smaller than this is none")


@dataclass(frozen=True)
class Found:
    """What came of a contrast; ``missing`` says why there is nothing."""

    contrast: Contrast
    where: str = ""  # the columns in words
    value: float = float("nan")
    best: str = ""  # title of the best row it is held against
    effect: float = float("nan")  # against that one
    low: float = float("nan")
    high: float = float("nan")
    between: tuple[float, float] = (float("nan"), float("nan"))  # SD between trainings: of the row, of the best other
    p: float = float("nan")  # the largest over the rows held against; 1 where one of them is not below
    bounded: bool = False  # the gain over some row is separably smaller than the margin
    missing: str = ""


@dataclass(frozen=True)
class Examined:
    """What a study says to all contrasts that name it, in their order."""

    found: list[Found]
    made_on: str  # machine, versions and commit of its trainings
    kept: bool = False  # read from its folder of results, computed elsewhere or before


ON_DISK = TypeAdapter(list[Found], config=ConfigDict(ser_json_inf_nan="constants"))


def examine_study(plan: Plan, asked: Sequence[Contrast]) -> Examined:
    """From the study's predictions, and then kept; where some are not there, what was kept of the same making.

    Raises
    ------
    UserError : a contrast names what the study does not have, or the kept file is damaged.
    """
    results, level = compute(plan), plan.study.statistics.level
    found = [
        from_analysis(c, plan) if c.task == false_negatives.ANALYSIS else examine(c, results, level) for c in asked
    ]
    here = Examined(found, made_on(plan))
    path, key = plan.paths.contrasts, fingerprint(plan, asked)
    if any(one.missing for one in found):
        return _kept(path, key) or here
    path.parent.mkdir(parents=True, exist_ok=True)
    contrasts = ON_DISK.dump_python(found, mode="json")
    text = json.dumps({"fingerprint": key, "made_on": here.made_on, "contrasts": contrasts}, indent=1)
    path.write_text(f"{text}\n", encoding="utf-8")
    return here


def fingerprint(plan: Plan, asked: Sequence[Contrast]) -> str:
    """Of what is asked, the statistics, the titles that are printed, all predictions of the study and the code of this module."""
    said = [c.model_dump(mode="json") for c in asked]
    titles = [[row.name, row.title] for block in plan.blocks for row in block.rows]
    predictions = [plan.evaluation(e.task, e.protocol, e.dataset, e.row, e.seed).key for e in plan.evaluations]
    page = false_negatives.fingerprint(plan).key if any(c.task == false_negatives.ANALYSIS for c in asked) else ""
    statistics_ = plan.study.statistics.model_dump(mode="json")
    return digest(said, statistics_, titles, predictions, page, code_of([__name__]))


def _kept(path: Path, key: str) -> Examined | None:
    """What the file holds if it is of this making."""
    if not path.is_file():
        return None
    try:
        file = json.loads(path.read_text(encoding="utf-8"))
        if file["fingerprint"] != key:
            return None
        return Examined(ON_DISK.validate_python(file["contrasts"]), str(file["made_on"]), kept=True)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"is damaged ({error})", where=path, fix="restore it, or delete it and run mlip claims"
        ) from None


def examine(contrast: Contrast, results: Results, level: float) -> Found:
    """The contrast on a study's cells.

    Raises
    ------
    UserError : the study has no such task, metric, data set or fraction, or the columns are of different metrics.
    """
    columns = _columns(contrast, results)
    where = _in_words(columns, results)
    rows = {row.name: row for block in results.blocks for row in block.rows}
    for name in (contrast.row, *contrast.against):
        if name not in rows:
            raise UserError(
                f"study {contrast.study} has no row {name!r}", where="config/claims.yaml", fix="correct the name"
            )
        if (lacking := results.statuses(name, columns) - {"ok"}) or any(name not in c.estimates for c in columns):
            return Found(contrast, where, missing=f"{name}: {', '.join(sorted(lacking)) or 'undefined'}")
    trained = [n for n, row in rows.items() if not row.control and all(n in c.estimates for c in columns)]
    mean = {
        n: statistics.mean_of([c.estimates[n] for c in columns], [1 / len(columns)] * len(columns)) for n in trained
    }
    pool = statistics.Pool.of(mean.values())
    own = mean[contrast.row]
    against = {n: statistics.difference(own, mean[n], pool) for n in contrast.against}
    best = max(contrast.against, key=lambda n: mean[n].value)
    low, high = against[best].interval(level)
    p = [d.p for d in against.values()]
    worst = 1.0 if min(d.value for d in against.values()) <= 0 else float(max(p))
    tighter = 1 - (1 - level) / len(against)
    return Found(
        contrast, where, own.value, row_name(rows[best]), against[best].value, low, high,
        (_between(own), _between(mean[best])),
        worst if np.isfinite(p).all() else float("nan"),
        any(d.interval(tighter)[1] < contrast.margin for d in against.values()),
    )  # fmt: skip


def from_analysis(contrast: Contrast, plan: Plan) -> Found:
    """A contrast on ``results/<study>/false_negatives.csv``, if it is of today's making.

    Raises
    ------
    UserError : the study does not hold ``row`` against the one row of ``against``.
    """
    where = "Different patients with equal findings: AUROC of their closeness"
    if (contrast.row, *contrast.against) not in false_negatives.variants(plan):
        raise UserError(
            f"study {contrast.study} does not hold {contrast.row!r} against {contrast.against}",
            where="config/claims.yaml",
            fix="name a method and the same without a part, in a study with the analysis false_negatives",
        )
    if not false_negatives.is_current(plan):
        return Found(contrast, where, missing="the page is not computed, or of other code")
    table = pd.read_csv(plan.paths.false_negatives.with_suffix(".csv"))
    one = table[(table["row"] == contrast.row) & (table["against"] == contrast.against[0])].iloc[0]
    bounded = bool(one["high"] < contrast.margin)
    worst = 1.0 if one["difference"] <= 0 else float(one["p"])
    return Found(
        contrast, where, float("nan"), plan.rows[contrast.against[0]].title, one["difference"], one["low"], one["high"],
        (one["sd_row"], one["sd_against"]), worst if np.isfinite(one["p"]) else float("nan"), bounded,
    )  # fmt: skip


def _between(found: statistics.Estimate) -> float:
    return float(found.seeds.std(ddof=1)) if len(found.seeds) > 1 else float("nan")


def _columns(contrast: Contrast, results: Results) -> list[Column]:
    protocol = next((b.protocol_name for b in results.blocks if b.task_name == contrast.task), None)
    found = [
        c
        for c in results.columns
        if (c.task, c.protocol) == (contrast.task, protocol)
        and (c.metric == contrast.metric if contrast.metric else c.main)
        and (not contrast.datasets or c.dataset in contrast.datasets)
        and (not contrast.fractions or c.fraction in contrast.fractions)
    ]
    lacking = [f"data set {d}" for d in contrast.datasets if d not in {c.dataset for c in found}]
    lacking += [f"fraction {f}" for f in contrast.fractions if f not in {c.fraction for c in found}]
    if lacking or not found:
        what = ", ".join(lacking) or f"task {contrast.task!r} with metric {contrast.metric or 'of any name'}"
        raise UserError(f"study {contrast.study} has no {what}", where="config/claims.yaml", fix="correct the contrast")
    if len(metrics := {c.metric for c in found}) > 1:
        raise UserError(
            f"a mean over {', '.join(sorted(metrics))} says nothing",
            where="config/claims.yaml",
            fix="name data sets of one metric",
        )
    return found


def _in_words(columns: Sequence[Column], results: Results) -> str:
    task = next(b.task for b in results.blocks if b.task_name == columns[0].task)
    datasets = list(dict.fromkeys(c.dataset for c in columns))
    labels = list(dict.fromkeys(fraction_name(task, c.fraction) for c in columns))
    return f"{task.title}, {columns[0].metric}: {', '.join(datasets)}" + (
        f" at {', '.join(labels)}" if any(labels) else ""
    )
