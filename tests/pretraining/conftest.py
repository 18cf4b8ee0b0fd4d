"""A small corpus of virtual patients, built by the study's own stages, on which the tests train for real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.plan import resolve
from mlip.run.stages import anatomy, data, knowledge, splits, tokenizer, twin
from mlip.study import Study, load_study, write_study
from tests.conftest import ROOT

Trainer = Callable[..., Study]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The smoke study's MIMIC layout, two anatomies, 120 films of 48 pixels, up to where pre-training begins."""
    folder = tmp_path_factory.mktemp("corpus")
    study = load_study(ROOT / "config" / "smoke.yaml")
    assert study.twin is not None
    films = study.twin.datasets["mimic"].model_copy(update={"images": 120})
    small_twin = study.twin.model_copy(update={"anatomies": 2, "size": 48, "datasets": {"mimic": films}})
    changes = {
        "work": folder / "work",
        "results": folder / "results",
        "image_size": 48,
        "twin": small_twin,
        "datasets": {"mimic": study.datasets["mimic"]},
        "tasks": {"retrieval": study.tasks["retrieval"]},
    }
    small = study.model_copy(update=changes)
    write_study(small, folder / "study.json")
    small = load_study(folder / "study.json")  # as every job reads it: the twin's folder follows `work`
    plan = resolve(small)
    anatomy.run(plan, 1)
    twin.run(plan, "mimic", 1)
    data.run(plan, "mimic", 1)
    splits.run(plan, "mimic")
    tokenizer.run(plan)
    knowledge.run(plan)
    return small


@pytest.fixture
def rows_in(corpus: Study, tmp_path: Path) -> Trainer:
    """A copy of the corpus' study whose trainings land in a folder of this test's own."""

    def make(**pretrain: object) -> Study:
        work = tmp_path / "work"
        target = work / corpus.study
        target.mkdir(parents=True, exist_ok=True)
        for name in ("data", "splits", "tokenizer", "knowledge"):
            if not (target / name).exists():
                (target / name).symlink_to(corpus.work / corpus.study / name)
        changed = corpus.pretrain.model_copy(update=pretrain)
        return corpus.model_copy(update={"work": work, "results": tmp_path / "results", "pretrain": changed})

    return make
