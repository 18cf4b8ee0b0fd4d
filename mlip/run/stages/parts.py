"""Whether each part of each trained method uses its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.analyses.parts import write_page
from mlip.devices import best_device

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan) -> None:
    write_page(plan, best_device(plan.study.device))
