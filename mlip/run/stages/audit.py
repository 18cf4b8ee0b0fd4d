"""The gate before training: leakage stops the study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip.data.audit import audit

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan) -> None:
    audit(plan.study)
