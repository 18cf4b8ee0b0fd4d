"""What the studies can say about the papers' claims: each a contrast with an effect, an interval and a verdict (``mlip claims``).

A gain over several rows holds where the row is separably better than EVERY one of them (intersection-union test, Berger
1982); the effect that is printed is that against the best of them. Holm's adjustment goes over all contrasts of the page. That
a gain does not hold is said only where it is bounded: where the interval against some row, widened for their number
(Bonferroni), lies below the claim's margin. All else cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, ValidationError, model_validator
from tabulate import tabulate

from benchmarks.report.contrasts import Contrast, Found, examine_study
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


def read_claims(path: Path) -> list[Claim]:
    """Raises UserError where the file is not what :class:`Claims` says."""
    try:
        return Claims.model_validate(read_yaml(path)).claims
    except ValidationError as error:
        raise UserError(describe(error), where=path, fix="compare it with benchmarks/report/claims.py") from None


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
    """Write ``results/claims.md`` from what each study that the claims name says to them (:func:`examine_study`).

    Parameters
    ----------
    plan_of : study name -> the resolved study; called once for each.

    Raises
    ------
    UserError : a contrast names what its study does not have, or the studies have different confidence levels.
    """
    asked: dict[str, list[Contrast]] = {}
    for contrast in (c for claim in claims for c in claim.contrasts):
        asked.setdefault(contrast.study, []).append(contrast)
    plans = {name: plan_of(name) for name in asked}
    levels = {plan.study.statistics.level for plan in plans.values()}
    if len(levels) > 1:
        raise UserError(f"the studies have different levels {sorted(levels)}", fix="set statistics.level alike")
    examined = {name: examine_study(plan, asked[name]) for name, plan in plans.items()}
    notes = {}
    for name, one in examined.items():
        file = plans[name].paths.contrasts
        kept = f" Read from `{file.parent.name}/{file.name}`, not computed again." if one.kept else ""
        notes[name] = f"{plans[name].study.note} Trained on: {one.made_on or 'nothing is trained yet'}.{kept}"
    rest = {name: iter(one.found) for name, one in examined.items()}
    found = [next(rest[c.study]) for claim in claims for c in claim.contrasts]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(claims, found, levels.pop() if levels else 0.95, notes), encoding="utf-8")


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
