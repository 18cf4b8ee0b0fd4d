"""The image store of one data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip.data.build import build_store

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan, dataset: str, threads: int) -> None:
    reports = dataset in plan.study.pretrain.datasets and any(e.manifest.trained for e in plan.rows.values())
    build_store(dataset, plan.study, threads, plan.fingerprints.store(dataset).key, reports)
