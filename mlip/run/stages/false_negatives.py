"""How the rows treat different patients with equal findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.analyses.false_negatives import fingerprint, write_page
from benchmarks.analyses.stamps import write_stamp
from mlip.devices import best_device

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan) -> None:
    write_page(plan, best_device(plan.study.device))
    write_stamp(plan.paths.stamp("false_negatives", "page"), fingerprint(plan))
