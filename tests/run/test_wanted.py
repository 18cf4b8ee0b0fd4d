"""What `mlip wanted` lists is what a row of embeddings is asked for: every film by its own name, every prompt and report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.plan import Plan, resolve
from benchmarks.tasks.shared.prompts import PROMPTS
from mlip.data.catalogue import readers
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.run.wanted import write_wanted
from mlip.study import Study, parse_study
from mlip.text.reports import parse_report
from tests.data.layouts import write_mimic, write_siim
from tests.stores import divide, write_store

REPORTS = ["FINDINGS: Clear lungs.", "IMPRESSION: Small effusion.", "IMPRESSION: Large effusion.", ""]


def a_study(folder: Path) -> Study:
    return parse_study(
        {
            "study": "mini", "title": "t", "data_note": "n", "work": str(folder / "work"), "image_size": 32,
            "datasets": {"mimic": {"reader": "mimic_cxr", "root": str(folder / "mimic")}, "siim": {"reader": "siim", "root": str(folder / "siim")}},
            "encoders": {"cnn": {"name": "resnet"}, "vit": {"name": "vit"}, "text": {}},
            "pretrain": {"datasets": ["mimic"]}, "methods": {"include": ["random"]},
            "tasks": {"zero_shot": {"datasets": ["siim"]}, "retrieval": {"datasets": ["mimic"]}},
        },
        where="test",
    )  # fmt: skip


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_mimic(tmp_path / "mimic")
    write_siim(tmp_path / "siim")
    study = a_study(tmp_path)
    paths = StudyPaths(study)
    rows = write_store(paths.data("mimic"), np.zeros((4, 32, 32), np.uint8), reader="mimic_cxr", reports=REPORTS)
    divide(paths.splits("mimic"), rows, ["train", "test", "test", "test"], [np.array([1, 0, 0, 0])])
    return resolve(study, look=False)


def test_films_and_texts(plan: Plan, tmp_path: Path) -> None:
    paths = write_wanted(plan, tmp_path / "out")
    assert all(path.stat().st_mode & 0o77 == 0 for path in paths)  # identifiers and reports are their owner's
    films, texts = (pd.read_parquet(path) for path in paths)
    reader = readers()["siim"]
    ids = [r.image_id for r in reader.records(tmp_path / "siim", reader.Options())]
    assert films[films["dataset"] == "siim"]["image_id"].tolist() == ids and len(ids) > 5
    assert set(films["reader"]) == {"siim", "mimic_cxr"}
    prompts = PROMPTS["radiology"].of("Pneumothorax")
    assert prompts is not None
    reports = [parse_report(raw).text for raw in REPORTS[1:3]]  # of the test part, as the tasks ask for them
    assert texts["text"].tolist()[:2] == reports and "Small effusion" in reports[0]
    assert set(texts["text"]) == {*reports, *prompts.positive, *prompts.negative}


def test_a_data_set_that_is_not_there_is_named(plan: Plan, tmp_path: Path) -> None:
    plan.study.datasets["siim"].root = tmp_path / "nowhere"
    with pytest.raises(UserError, match="nowhere: the data set siim is not there"):
        write_wanted(plan, tmp_path / "out")
