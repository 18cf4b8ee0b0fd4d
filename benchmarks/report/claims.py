"""What the studies can say about the papers' claims: each a contrast with an effect, an interval and a verdict (``mlip claims``).

A gain over several rows holds where the row is separably better than EVERY one of them (intersection-union test, Berger
1982); the effect that is printed is that against the best of them. Holm's adjustment goes over all contrasts of the page. That
a gain does not hold is said only where it is bounded: where the interval against some row, widened for their number
(Bonferroni), lies below the claim's margin. All else cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator
from tabulate import tabulate

from benchmarks.analyses import false_negatives
from benchmarks.cells import Column, Results, compute, fraction_name
from benchmarks.report.made import made_on
from benchmarks.report.words import row_name
from benchmarks.scores import statistics
from mlip.errors import UserError
from mlip.study import Strict, describe
from mlip.yaml_files import read_yaml

if TYPE_CHECKING:
    from benchmarks.plan import Plan

HOLDS, NOT, OPEN, UNTESTABLE = (
    "holds here",
    "does not hold here",
    "cannot be told",
    "cannot be tested without the real data",
)


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


class Claim(Strict):
    """A claim in our words, where it stands, and how it is put to the test; or why it cannot be."""

    id: str
    paper: str
    claim: str
    source: str
    contrasts: list[Contrast] = Field(default_factory=list)
    untestable: str = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> Claim:
        if bool(self.contrasts) == bool(self.untestable):
            raise ValueError(f"claim {self.id!r} needs either contrasts or the reason why it is untestable")
        return self


class Claims(Strict):
    """``config/claims.yaml``."""

    claims: list[Claim]


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


def read_claims(path: Path) -> list[Claim]:
    """Raises UserError where the file is not what :class:`Claims` says."""
    try:
        return Claims.model_validate(read_yaml(path)).claims
    except ValidationError as error:
        raise UserError(describe(error), where=path, fix="compare it with benchmarks/report/claims.py") from None


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


def verdicts(found: Sequence[Found], level: float) -> list[str]:
    """One for each contrast, Holm-adjusted over those that are there."""
    there = [k for k, f in enumerate(found) if not f.missing and np.isfinite(f.p)]
    adjusted = dict(zip(there, statistics.holm([found[k].p for k in there]), strict=True))
    said = []
    for k, one in enumerate(found):
        if one.missing:
            said.append(f"not computed ({one.missing})")
        elif adjusted.get(k, 1.0) <= 1 - level:
            said.append(HOLDS)
        else:
            said.append(NOT if one.bounded else OPEN)
    return said


def write_page(claims: Sequence[Claim], plan_of: Callable[[str], Plan], path: Path) -> None:
    """Write ``results/claims.md`` from the predictions of all studies that the claims name.

    Parameters
    ----------
    plan_of : study name -> the resolved study; called once for each.

    Raises
    ------
    UserError : a contrast names what its study does not have, or the studies have different confidence levels.
    """
    plans = {name: plan_of(name) for name in dict.fromkeys(c.study for claim in claims for c in claim.contrasts)}
    levels = {plan.study.statistics.level for plan in plans.values()}
    if len(levels) > 1:
        raise UserError(f"the studies have different levels {sorted(levels)}", fix="set statistics.level alike")
    results = {name: compute(plan) for name, plan in plans.items()}
    level = levels.pop() if levels else 0.95
    found = [
        from_analysis(c, plans[c.study]) if c.task == false_negatives.ANALYSIS else examine(c, results[c.study], level)
        for claim in claims
        for c in claim.contrasts
    ]
    notes = {
        name: f"{plan.study.note} Trained on: {made_on(plan) or 'nothing is trained yet'}."
        for name, plan in plans.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(claims, found, level, notes), encoding="utf-8")


def page(claims: Sequence[Claim], found: Sequence[Found], level: float, notes: Mapping[str, str]) -> str:
    """The page from what came of all contrasts, in their order, and a note on each study (its data, the machine)."""
    said = verdicts(found, level)
    rest = iter(zip(found, said, strict=True))
    parts = [
        "# The papers' claims, and what this data says",
        *_intro(said, level),
        *(f"- `{n}`: {line}" for n, line in notes.items()),
    ]
    text = ["\n\n".join(parts[:1]), "\n".join(parts[1:])]
    for claim in claims:
        text += [f"## {claim.id}", f"{claim.paper}. {claim.claim}\n\nSource: {claim.source}."]
        if claim.untestable:
            text.append(f"**{UNTESTABLE}**: {claim.untestable}")
            continue
        lines = [_line(*next(rest)) for _ in claim.contrasts]
        head = [
            "study",
            "where",
            "row",
            "value",
            "against (best of)",
            f"gain [{level:.0%}]",
            "SD between trainings",
            "verdict",
        ]
        text.append(tabulate(lines, headers=head, tablefmt="github", disable_numparse=True))
    return "\n\n".join(text) + "\n"


def _line(found: Found, verdict: str) -> list[str]:
    c = found.contrast
    others = (
        found.best + (f" (of {', '.join(c.against)})" if len(c.against) > 1 else "")
        if found.best
        else ", ".join(c.against)
    )
    if found.missing:
        return [c.study, found.where, c.row, "", others, "", "", verdict]
    spread = " / ".join("?" if np.isnan(s) else f"{100 * s:.1f}" for s in found.between)
    gain = f"{100 * found.effect:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    value = "" if np.isnan(found.value) else f"{100 * found.value:.1f}"
    return [c.study, found.where, c.row, value, others, gain, spread, verdict]


def _intro(said: Sequence[str], level: float) -> list[str]:
    counts = ", ".join(f"{sum(s == kind for s in said)} {kind}" for kind in (HOLDS, NOT, OPEN))
    lines = [
        f"Of {len(said)} contrasts: {counts}"
        + (f", {n} not computed" if (n := sum(s.startswith("not computed") for s in said)) else "")
        + ".",
        "",
        f"- Gain: value × 100 of the row minus that of the best row it is held against, with a {level:.0%} interval over test patients, label draws and trainings.",
        f"- *{HOLDS}*: separably better than EVERY row named, after Holm's adjustment over all contrasts of this page. *{NOT}*: the gain over one of them is "
        "bounded below the margin in `config/claims.yaml` (one point where nothing else stands). "
        f"*{OPEN}*: neither. A claim that does not hold here may hold at the papers' size: these are small trainings.",
        "- SD between trainings: of the row and of the best other, over the pre-training seeds.",
    ]
    return lines
