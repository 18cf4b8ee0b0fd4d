"""How the rows treat different patients with equal findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.analyses.false_negatives import write_page
from mlip.devices import best_device

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan) -> None:
    write_page(plan, best_device(plan.study.device))
