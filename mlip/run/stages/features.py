"""Frozen features of one row on one data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.tasks.shared.features import extract
from mlip.devices import best_device

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan, row: str, seed: int, dataset: str) -> None:
    key = plan.features(row, seed, dataset).key
    extract(plan.study, plan.row(row), seed, dataset, best_device(plan.study.device), key)
