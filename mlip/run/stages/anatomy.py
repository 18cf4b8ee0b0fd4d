"""Base projections of the virtual patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip.twin.anatomy import build_anatomies

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan, threads: int) -> None:
    assert plan.study.twin is not None
    build_anatomies(plan.paths.anatomy, plan.study.twin, plan.study.seed, threads)
