"""Train, validation and test rows of one data set, and the draws of label fractions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip.data.division import build_splits

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan, dataset: str) -> None:
    prints = plan.fingerprints
    build_splits(dataset, plan.study, prints.draws.get(dataset, 1), prints.division(dataset).key)
