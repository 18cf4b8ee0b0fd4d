"""config/iu.yaml on virtual patients in IU X-ray's layout: the plan, the labels, the division by report, retrieval."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.plan import Plan, resolve
from benchmarks.tasks.catalogue import read_protocol
from mlip.data.catalogue import readers
from mlip.data.splits import read_splits
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.run.cli import app
from mlip.study import TwinConfig, load_study
from mlip.twin.anatomy import build_anatomies
from mlip.twin.catalogue import twin_writer
from tests.conftest import ROOT
from tests.data.layouts import write_iu


def study_file(folder: Path, few_shot: list[int] | None = None) -> Path:
    """config/iu.yaml with its data, work and results below ``folder``, and other shots where they are given."""
    raw = yaml.safe_load((ROOT / "config" / "iu.yaml").read_text(encoding="utf-8"))
    raw |= {"data_root": str(folder / "data"), "work": str(folder / "work"), "results": str(folder / "results")}
    raw["tasks"]["few_shot"]["fractions"] = few_shot or raw["tasks"]["few_shot"]["fractions"]
    path = folder / "iu.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def run(path: Path, *words: str) -> None:
    threads = os.environ.copy()
    result = CliRunner().invoke(app, [*words, "-s", str(path)])
    os.environ |= threads  # a command sets them for its own process
    assert result.exception is None, f"{words}: {result.exception}"


def test_the_plan_says_how_to_get_the_data_and_takes_a_folder_that_is_there(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    with pytest.raises(UserError, match=r"iu-xray: the data set iu is not there\. Fix: `mlip fetch iu_xray`"):
        resolve(load_study(path))
    write_iu(tmp_path / "data" / "iu-xray")
    plan = resolve(load_study(path), look=False)
    assert {b.task_name for b in plan.blocks} == {"linear_probe", "zero_shot", "few_shot", "retrieval"}
    assert plan.sources["iu"].reader.verify(tmp_path / "data" / "iu-xray", plan.sources["iu"].options) == "NLMCXR"


@pytest.mark.slow
def test_the_study_on_virtual_patients(tmp_path: Path) -> None:
    build_anatomies(tmp_path / "anatomy.npz", TwinConfig(anatomies=3, size=72, datasets={}), 5, 1)
    root = tmp_path / "data" / "iu-xray"
    twin_writer("iu_xray").write(root, tmp_path / "anatomy.npz", 240, "reference", 72, 5, workers=1)
    path = study_file(tmp_path, few_shot=[1, 4])  # so few patients have 16 of no finding
    run(path, "check")
    run(path, "run", "data", "iu")
    run(path, "run", "splits", "iu")
    run(path, "run", "audit")
    plan = resolve(load_study(path), look=False)
    _labels_and_parts(plan, root)
    # The row that needs no training, through every task that it can do, and the controls of the others.
    run(path, "run", "tokenizer")
    run(path, "run", "pretrain", "imagenet")
    run(path, "run", "features", "imagenet", "iu")
    for task in ("linear_probe", "few_shot"):
        run(path, "run", "evaluate", task, "strict", "iu", "imagenet")
    for protocol in ("strict", "chexzero"):
        run(path, "run", "evaluate", "zero_shot", protocol, "iu", "constant")
    run(path, "run", "evaluate", "retrieval", "strict", "iu", "chance")
    _predictions(plan)


def _labels_and_parts(plan: Plan, root: Path) -> None:
    reader = readers()["iu_xray"]
    raw = reader.records(root, reader.Options())
    store = open_store(plan.paths.data("iu"))
    splits = read_splits(plan.paths.splits("iu"))
    assert len(store.records) == len(raw) == 240
    for label in ("Cardiomegaly", "Pleural Effusion", "No Finding"):
        given = np.array([r.labels[label] for r in raw])
        np.testing.assert_array_equal(store.label(label), given)
        assert 0.02 < given.mean() < 0.9
    parts = splits.drop_duplicates("row").set_index("row")["part"]
    of_report: dict[str, set[str]] = {}
    for row, record in enumerate(raw):
        of_report.setdefault(record.patient_id, set()).add(parts[row])
    assert all(len(found) == 1 for found in of_report.values())
    assert set(parts) == {"train", "val", "test"} and (parts == "test").mean() == pytest.approx(0.2, abs=0.05)


def _predictions(plan: Plan) -> None:
    records = open_store(plan.paths.data("iu")).records.set_index("image_id")
    wanted = read_protocol("linear_probe", "strict").datasets["iu_xray"].labels
    probe = pd.read_parquet(plan.paths.predictions("linear_probe", "strict", "iu", "imagenet", 0))
    assert set(probe["label"]) == set(wanted) == {"Atelectasis", "Cardiomegaly", "Pleural Effusion"}
    for row in probe.itertuples():
        assert row.y == records.loc[row.image_id, f"label.{row.label}"]
    found = pd.read_parquet(plan.paths.predictions("retrieval", "strict", "iu", "chance", 0))
    assert set(found["label"]) == {"image-to-text", "text-to-image"}
    assert (
        found["image_id"].is_unique is False
        and (found.groupby("label")["patient_id"].nunique() == len(found) / 2).all()
    )
