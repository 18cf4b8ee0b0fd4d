"""What a study overrides in protocols: in all of a task, and in one alone."""

from __future__ import annotations

from benchmarks.plan import resolve
from benchmarks.report.words import describe
from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.shared.task import with_budget
from mlip.study import TaskConfig, load_study
from tests.conftest import ROOT


def test_a_protocols_own_budget_is_its_alone_and_wins() -> None:
    budget = {"batch_size": 2, "iterations": 9, "maco-2024": {"upernet": 64, "iterations": {100: 5}}}
    config = TaskConfig(datasets=["siim"], protocols=["strict-epochs", "maco-2024"], budget=budget)
    ours, lineage = (with_budget(read_protocol("segmentation", name), config) for name in config.protocols)
    assert (ours.batch_size, ours.iterations, ours.upernet) == (2, 9, None)
    assert (lineage.batch_size, lineage.iterations, lineage.upernet) == (2, {100: 5}, 64)
    assert read_protocol("segmentation", "maco-2024").upernet == 768


def test_a_table_prints_the_budget_of_its_protocol() -> None:
    study = load_study(ROOT / "config" / "paper-rehearsal.yaml")
    blocks = {b.protocol_name: b for b in resolve(study, look=False).blocks if b.task_name == "segmentation"}
    printed = {name: describe(study, [block]) for name, block in blocks.items()}
    assert "`iterations` = 1" in printed["maco-2024"] and "`upernet` = 64" in printed["maco-2024"]
    assert "`iterations` = 1" in printed["mgca-2022"] and "upernet` =" not in printed["mgca-2022"]
