"""A training over two processes: the same weights after a kill as without one, and what refuses to begin."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from mlip.errors import UserError
from mlip.fingerprints import Fingerprint
from mlip.methods import entries
from mlip.paths import StudyPaths
from mlip.pretraining.loop import _Training, pretrain
from mlip.pretraining.processes import ALONE, Ranks, launched, was_launched
from mlip.study import Study, write_study
from tests.conftest import ROOT
from tests.pretraining.conftest import Trainer

ROW = "isbi24"


def _train(study: Study) -> None:
    """Without batch norm, which on CPUs sees the rows of its own process alone."""
    entry = entries(study)[0][ROW]
    pretrain(study, replace(entry, params=entry.params | {"centred_heads": False}), 0, Fingerprint("", ""))


def _made(study: Study) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], dict[str, object]]:
    folder = StudyPaths(study).pretrain(ROW, 0)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return load_file(folder / "method.safetensors"), [json.loads(line) for line in lines], card


def _without_dropout(study: Study) -> Study:
    text = study.encoders.text.model_copy(update={"dropout": 0.0})
    return study.model_copy(update={"encoders": study.encoders.model_copy(update={"text": text})})


@pytest.mark.slow  # three trainings, five processes
def test_two_processes_train_as_one_and_go_on_after_a_kill(rows_in: Trainer, tmp_path: Path) -> None:
    study = _without_dropout(rows_in(epochs=8, batch_size=16, checkpoint_seconds=0.01))
    _train(study)
    _, lines_of_one, _ = _made(study)
    two = study.model_copy(update={"pretrain": study.pretrain.model_copy(update={"devices": 2})})
    _train(two)
    weights, lines, card = _made(two)
    assert "2 processes" in str(card["device"]) and len(lines) == len(lines_of_one)
    for one, both in zip(lines_of_one[:10], lines[:10], strict=True):  # later the sums' last bits have grown
        assert both["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert lines[0]["loss"] == pytest.approx(lines_of_one[0]["loss"], rel=1e-5)

    job = multiprocessing.get_context("spawn").Process(target=_train, args=(two,))
    job.start()
    state = StudyPaths(two).training_state(ROW, 0)
    while not state.is_file() or torch.load(state, weights_only=False)["step"] < 3:
        assert job.is_alive()
        time.sleep(0.02)
    ranks = psutil.Process(job.pid).children(recursive=True)
    job.kill()  # as by `kill -9`: its processes end by themselves, while most steps are yet to come
    job.join()
    assert not psutil.wait_procs(ranks, timeout=30)[1]
    reached = torch.load(state, weights_only=False)["step"]
    assert 3 <= reached < len(lines)
    _train(two)
    again, lines_again, card = _made(two)
    assert card["resumed"] == 1
    assert [line["loss"] for line in lines_again] == [line["loss"] for line in lines]
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.slow  # three command lines
def test_torchrun_trains_what_the_command_itself_does(rows_in: Trainer, tmp_path: Path) -> None:
    study = rows_in(epochs=1, batch_size=16, devices=2)
    file = tmp_path / "study.json"
    write_study(study, file)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["-m", "mlip", "run", "pretrain", ROW, "-s", str(file)]
    subprocess.run([sys.executable, *command], check=True, env=variables, cwd=ROOT)
    weights, lines, _ = _made(study)
    noted = StudyPaths(study).made("pretrain", ROW, 0)
    noted.unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    subprocess.run([*torchrun, "2", *command], check=True, env=variables, cwd=ROOT)
    again, lines_again, card = _made(study)
    assert noted.is_file() and "2 processes" in str(card["device"])
    assert [line["loss"] for line in lines_again] == [line["loss"] for line in lines]
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    wrong = subprocess.run([*torchrun, "1", *command], env=variables, cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode and "pretrain.devices is 2" in wrong.stderr


def test_a_batch_that_cannot_be_shared_is_refused(rows_in: Trainer) -> None:
    with pytest.raises(UserError, match="a batch of 15 pairs cannot be shared by 2 processes"):
        study = rows_in(batch_size=15, devices=2)
        entry = entries(study)[0][ROW]
        _Training(Ranks(0, 2), torch.device("cpu"), study, entry, 0, study.work, Fingerprint("", ""))


def test_another_number_of_processes_than_devices_is_refused(rows_in: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = {
        "TORCHELASTIC_RUN_ID": "x",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "localhost",
    }
    for name, value in (torchrun | {"MASTER_PORT": "29500"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"1 processes were started on 1 machines, pretrain\.devices is 2"):
        _train(rows_in(devices=2))


def test_srun_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = {"SLURM_JOB_ID": "123456", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in batch.items():
        monkeypatch.setenv(name, value)
    assert launched() == ALONE and not was_launched()  # the script of a job: nobody started tasks of it
    step = {"STEP_NUM_TASKS": "4", "STEP_NUM_NODES": "2", "STEP_NODELIST": "gpu[07-08]", "STEP_ID": "1"}
    for name, value in (step | {"PROCID": "3", "LOCALID": "1"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert launched() == Ranks(3, 4, 1, 2, f"tcp://gpu07:{15000 + 1234561 % 10000}") and was_launched()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # as Snakemake's executor starts a job
    assert not was_launched()


@pytest.mark.slow  # two trainings; a step's equality: test_processes.py
def test_chunks_of_a_training_without_batch_norm_change_nothing(rows_in: Trainer) -> None:
    study = _without_dropout(rows_in(epochs=1, batch_size=16))
    _train(study)
    _, whole, _ = _made(study)
    _train(study.model_copy(update={"pretrain": study.pretrain.model_copy(update={"chunk": 6})}))
    _, chunks, _ = _made(study)
    for one, other in zip(whole, chunks, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)
