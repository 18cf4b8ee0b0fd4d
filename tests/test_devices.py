"""Which GPUs a job takes, on a machine with two pretended ones."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from mlip import devices
from mlip.errors import UserError
from tests.conftest import ROOT

SLURM = (
    "SLURM_JOB_ID",
    "SLURM_STEP_GPUS",
    "SLURM_JOB_GPUS",
    "CUDA_VISIBLE_DEVICES",
    "MLIP_GPU_JOBS",
    "TORCHELASTIC_RUN_ID",
)
PRETENDED = ["GPU-aaaa", "GPU-bbbb"]
# A job that says which GPU (by UUID, as CUDA would number those of CUDA_VISIBLE_DEVICES) it has, and keeps it for a while.
JOB = """
import os, sys, time
from mlip import devices
asked = os.environ.get("CUDA_VISIBLE_DEVICES")
seen = asked.split(",") if asked else {gpus!r}
devices.visible_gpus = lambda: seen
found = devices.take_devices("cuda", int(sys.argv[1]))
print(*(seen[d.index] for d in found), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(devices, "_held", {})


def two_gpus(monkeypatch: pytest.MonkeyPatch, gpus: list[str] = PRETENDED) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda: list(gpus))


def numbers(found: list[torch.device]) -> list[int]:
    assert all(d.type == "cuda" for d in found)
    return [d.index for d in found]


def test_no_gpu_is_an_error_where_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch, [])
    assert devices.best_device("auto").type == "cpu"
    assert devices.take_devices("auto", 2) == [torch.device("cpu")] * 2
    with pytest.raises(UserError, match="device is cuda"):
        devices.best_device("cuda")


def test_more_than_there_are_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch)
    with pytest.raises(UserError, match="3 GPUs are asked for, this process sees 2"):
        devices.take_devices("auto", 3)
    assert numbers(devices.take_devices("auto", 2)) == [0, 1]
    assert numbers(devices.take_devices("auto", 1)) == [0]  # held already: asked again it is the same one


def _job(count: int = 1, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", JOB.format(gpus=PRETENDED), str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables)


@pytest.mark.slow  # four processes
def test_jobs_take_different_gpus_and_the_third_waits() -> None:
    # The second counts the GPUs the other way round: its number 0 is the first job's number 1.
    one, two = _job(), _job(CUDA_VISIBLE_DEVICES="GPU-bbbb,GPU-aaaa")
    assert one.stdout and two.stdout
    taken = {one.stdout.readline().strip(), two.stdout.readline().strip()}
    assert taken == set(PRETENDED)
    both, third = _job(2), _job()
    assert both.stdout and third.stdout
    time.sleep(0.5)
    one.communicate()
    # All or nothing: the job that waits for two does not sit on the one that is free.
    assert third.stdout.readline().strip() in PRETENDED
    third.communicate()
    two.communicate()
    assert sorted(both.stdout.readline().split()) == PRETENDED
    both.communicate()


def test_locks_are_by_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    two_gpus(monkeypatch)
    assert numbers(devices.take_devices("cuda", 2)) == [0, 1]
    folder = tmp_path / f"mlip-gpus-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.name for p in folder.iterdir()} == {"GPU-aaaa-0.lock", "GPU-bbbb-0.lock"}
    # Those locks are held (by this very process' other open files): another user does not see them.
    monkeypatch.setattr(devices, "_held", {})
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    monkeypatch.setattr(
        Path, "lstat", lambda self: os.stat_result((0o40700, 0, 0, 0, folder.stat().st_uid + 1, 0, 0, 0, 0, 0))
    )
    assert numbers(devices.take_devices("cuda", 2)) == [0, 1]


def test_a_lock_folder_that_others_can_write_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    two_gpus(monkeypatch)
    folder = tmp_path / f"mlip-gpus-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match="not a folder of this user alone"):
        devices.best_device("cuda")


def test_what_slurm_assigned_is_taken_without_a_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    two_gpus(monkeypatch)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_GPUS", "1")  # no cgroup: both are seen
    assert numbers(devices.take_devices("cuda", 1)) == [1]
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(devices, "_held", {})
    two_gpus(monkeypatch, ["GPU-bbbb"])  # a cgroup hides the other, and CUDA counts from 0
    assert numbers(devices.take_devices("cuda", 1)) == [0]
    with pytest.raises(UserError, match="2 GPUs are asked for, this process sees 1"):
        devices.take_devices("cuda", 2)
    assert not list(tmp_path.iterdir())


def test_each_process_of_a_launcher_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch)
    assert [devices.device_of_rank("cuda", local, 2).index for local in (0, 1)] == [0, 1]
    with pytest.raises(UserError, match="3 GPUs are asked for"):
        devices.device_of_rank("cuda", 2, 3)
    two_gpus(monkeypatch, ["GPU-bbbb"])  # srun --gpus-per-task=1
    assert devices.device_of_rank("cuda", 1, 2).index == 0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # torchrun hides none
    with pytest.raises(UserError, match="2 GPUs are asked for"):
        devices.device_of_rank("cuda", 1, 2)
