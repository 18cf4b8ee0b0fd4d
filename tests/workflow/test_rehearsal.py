"""The rehearsal is the paper study: key by key, but for what has a reason; and every rule, protocol and table of it runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mlip.methods import entries
from mlip.paths import StudyPaths
from mlip.run.stand_ins import write_stand_ins
from mlip.study import load_study
from tests.conftest import ROOT
from tests.workflow.conftest import snakemake, write_config

# Whatever else differs is a fault: it would be rehearsed otherwise than it will be run.
TRAINED = ("fine_tuning", "detection", "segmentation")  # whose every draw is a training
REASONS = {
    "study": "its files lie beside those of the paper study",
    "title": "says what it is",
    "data_note": "the films are virtual",
    "twin": "writes the films, in the real layouts",
    "datasets.*.root": "the real folders",
    "datasets.*.twin": "the virtual ones in their place",
    "pretrain.batch_size": "films that two cores encode in seconds",
    "pretrain.steps": "one step of each training",
    "pretrain.seeds": "one training of each row: a checkpoint has up to 0.9 GB",
    "pretrain.threads": "two trainings at once on two cores",
    "tasks.linear_probe.fractions": "less than most of a few dozen films lacks a class",
    "tasks.few_shot.fractions": "16 films of each class are more than two cores encode in the time",
    **{f"tasks.{task}.budget": "one step of two films" for task in TRAINED},
    "tasks.segmentation.budget": "one step of two films; MaCo's UPerNet of 64 channels: with its 768 it takes an hour",
    **{f"tasks.{task}.draws": "further draws are the same code" for task in TRAINED},
}


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value and path != "twin" and not path.endswith(".budget"):
        return {k: v for key, inner in value.items() for k, v in _leaves(inner, f"{path}.{key}".lstrip(".")).items()}
    return {path: value}


def _reason(path: str) -> str:
    parts = path.split(".")
    return ".".join(["datasets", "*", *parts[2:]]) if parts[0] == "datasets" else path


def test_nothing_differs_from_the_paper_study_without_a_reason() -> None:
    paper, rehearsal = (
        _leaves(yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text(encoding="utf-8")))
        for name in ("paper", "paper-rehearsal")
    )
    differing = {_reason(k) for k in {*paper, *rehearsal} if paper.get(k, "absent") != rehearsal.get(k, "absent")}
    assert differing == set(REASONS)


def test_both_studies_have_the_same_rows_and_encoders() -> None:
    found = []
    for name in ("paper", "paper-rehearsal"):
        study = load_study(ROOT / "config" / f"{name}.yaml")
        found.append({n: (e.standing, e.params, e.image_config(study)) for n, e in entries(study)[0].items()})
    assert found[0] == found[1] and len(found[0]) >= 14


@pytest.mark.slow
def test_the_paper_study_runs(tmp_path: Path) -> None:
    """Every cell has a value or a reason, from weights that timm and transformers loaded as from the hub."""
    folder = Path(
        os.environ.get("MLIP_REHEARSAL_RUN") or tmp_path
    )  # a finished run's folder is looked at, not run again
    folder.mkdir(parents=True, exist_ok=True)
    places = {"work": str(folder / "work"), "results": str(folder / "results")}
    config = write_config(folder / "study.yaml", "paper-rehearsal", **places)
    study, hub = load_study(config), folder / "hub"
    write_stand_ins(study, hub)
    offline = {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
    snakemake("--cores", "2", "--configfile", str(config), timeout=3600, **offline)
    paths = StudyPaths(study)
    cells = pd.read_csv(paths.cells)
    # After one step no box reaches the lineage's confidence of 0.5, and films without any do not count in its metric.
    lost = cells[~cells["status"].isin(["ok", "skipped"])]
    assert set(lost["reason"]) <= {"mAP (lineage's skips): no test image that counts has a true box"}, lost
    assert set(lost["protocol"]) <= {"mgca-2022"} and (cells["status"] == "ok").sum() > 10 * len(lost)
    assert set(cells["task"]) == set(study.tasks)
    trained = {name for name, entry in entries(study)[0].items() if entry.trained}
    assert {len((paths.pretrain(n, 0) / "metrics.jsonl").read_text("utf-8").splitlines()) for n in trained} == {1}
    assert "VIRTUAL PATIENTS" in paths.leaderboard.read_text(encoding="utf-8").splitlines()[0]
