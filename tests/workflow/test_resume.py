"""A killed pre-training goes on where it was, and ends with the same weights as one that was never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.plan import resolve
from mlip.methods import entries
from mlip.paths import StudyPaths
from mlip.pretraining.loop import _Training
from mlip.pretraining.processes import ALONE
from mlip.study import Study, load_study, write_study
from tests.conftest import ROOT
from tests.workflow.conftest import Run

pytestmark = pytest.mark.study
ROW = "isbi24"  # masks its images at random: resumption must repeat every draw


def _command(config: Path) -> list[str]:
    return [sys.executable, "-m", "mlip", "run", "pretrain", ROW, "--seed", "0", "-s", str(config)]


def _twin_of(smoke: Run, tmp_path: Path) -> tuple[Study, Path]:
    """The smoke study with a longer training in a folder of its own, over the same data."""
    changes = {"work": tmp_path / "work", "results": tmp_path / "results"}
    pretrain = smoke.study.pretrain.model_copy(update={"epochs": 6, "checkpoint_seconds": 0.05})
    study = smoke.study.model_copy(update={**changes, "pretrain": pretrain})
    source, target = StudyPaths(smoke.study).work, StudyPaths(study).work
    target.mkdir(parents=True)
    for name in ("data", "splits", "tokenizer", "knowledge", "raw"):
        (target / name).symlink_to(source / name)
    path = tmp_path / "study.json"
    write_study(study, path)
    return load_study(path), path


def test_killed_training_continues_and_ends_with_the_same_weights(smoke: Run, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, whole_file = _twin_of(smoke, tmp_path / "a")
    subprocess.run(_command(whole_file), cwd=ROOT, check=True, capture_output=True)

    killed, killed_file = _twin_of(smoke, tmp_path / "b")
    paths = StudyPaths(killed)
    state = paths.training_state(ROW, 0)
    process = subprocess.Popen(_command(killed_file), cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not state.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "the training ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (paths.pretrain(ROW, 0) / "method.safetensors").exists()
    reached = torch.load(state, map_location="cpu", weights_only=False)["step"]
    assert reached > 0

    subprocess.run(_command(killed_file), cwd=ROOT, check=True, capture_output=True)
    card = json.loads((paths.pretrain(ROW, 0) / "card.json").read_text(encoding="utf-8"))
    assert card["resumed"] == 1
    assert not state.exists()
    expected = load_file(StudyPaths(whole).pretrain(ROW, 0) / "method.safetensors")
    found = load_file(paths.pretrain(ROW, 0) / "method.safetensors")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    curves = [
        [
            json.loads(line)["loss"]
            for line in (StudyPaths(s).pretrain(ROW, 0) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for s in (whole, killed)
    ]
    assert curves[0] == curves[1]


def test_state_of_another_configuration_is_not_continued(smoke: Run, tmp_path: Path) -> None:
    study, _ = _twin_of(smoke, tmp_path)
    out = StudyPaths(study).pretrain(ROW, 0)
    out.mkdir(parents=True)
    entry = entries(study)[0][ROW]
    first = _Training(ALONE, torch.device("cpu"), study, entry, 0, out, resolve(study).training(ROW, 0))
    first.step = 5
    first._save()
    first.metrics_path.write_text("{}\n" * 6, encoding="utf-8")
    same = _Training(ALONE, torch.device("cpu"), study, entry, 0, out, resolve(study).training(ROW, 0))
    same._resume()
    assert same.step == 5 and len(same.metrics_path.read_text(encoding="utf-8").splitlines()) == 5
    longer = study.model_copy(update={"pretrain": study.pretrain.model_copy(update={"epochs": 9})})
    second = _Training(ALONE, torch.device("cpu"), longer, entry, 0, out, resolve(longer).training(ROW, 0))
    second._resume()
    assert second.step == 0


def test_a_state_whose_record_of_losses_is_lost_is_not_continued(smoke: Run, tmp_path: Path) -> None:
    study, _ = _twin_of(smoke, tmp_path)
    out = StudyPaths(study).pretrain(ROW, 0)
    out.mkdir(parents=True)
    made = (study, entries(study)[0][ROW], 0, out, resolve(study).training(ROW, 0))
    first = _Training(ALONE, torch.device("cpu"), *made)
    first.step = 5
    first._save()
    first.metrics_path.write_text("{}\n" * 4, encoding="utf-8")
    again = _Training(ALONE, torch.device("cpu"), *made)
    again._resume()
    assert again.step == 0 and again.metrics_path.read_text(encoding="utf-8") == ""
