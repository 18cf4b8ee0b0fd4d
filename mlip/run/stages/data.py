"""The image store of one data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip.data.build import build_store

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan, dataset: str, threads: int) -> None:
    reports = plan.trains and dataset in plan.study.pretrain.datasets
    build_store(dataset, plan.study, threads, plan.fingerprints.store(dataset).key, reports)
