"""Where one row looks on test films: a figure and its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.analyses.maps import write_maps
from mlip.devices import best_device

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan, row: str) -> None:
    write_maps(plan, plan.row(row), best_device(plan.study.device))
