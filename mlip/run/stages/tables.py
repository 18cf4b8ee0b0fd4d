"""Tables and leaderboard from whatever predictions exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.report.build import build_tables

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan, workers: int) -> None:
    build_tables(plan, workers)
