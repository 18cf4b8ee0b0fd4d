"""Pre-training of one row with one seed; continues after a kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip.pretraining.loop import pretrain

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan, row: str, seed: int) -> None:
    pretrain(plan.study, plan.row(row), seed, plan.training(row, seed))
