"""Which devices a job uses. Jobs of one user that run at the same time take different GPUs, and wait where all are taken.

``snakemake --cores all`` starts as many jobs as there are cores: each takes free GPUs by file locks that end with its process,
named by the GPU and not by its place in ``CUDA_VISIBLE_DEVICES``. Where Slurm has assigned GPUs there is nothing to take.
"""

from __future__ import annotations

import fcntl
import os
import random
import stat
import tempfile
import time
from pathlib import Path
from typing import IO

import torch

from mlip.errors import UserError
from mlip.log import logger

# Locks by number of the GPU, in the order in which they were taken; None where there was nothing to lock.
_held: dict[int, IO[str] | None] = {}


def best_device(choice: str = "auto") -> torch.device:
    """The configured device; ``auto`` takes a GPU where there is one. See :func:`take_devices`."""
    return take_devices(choice, 1)[0]


def take_devices(choice: str, count: int) -> list[torch.device]:
    """``count`` devices for this process and those that it starts: GPUs, or that many times the CPU. Taken once per process.

    Waits until so many GPUs are free for this user at once. ``MLIP_GPU_JOBS`` (default 1) jobs share one GPU.

    Raises
    ------
    UserError : ``cuda`` without a GPU, more GPUs than this process sees, or a lock folder that is not the user's own.
    """
    gpus = _wanted_gpus(choice)
    if gpus is None:
        return [torch.device("cpu")] * count
    _demand(gpus, count)
    if len(_held) < count:
        jobs = 1 if _assigned() else int(os.environ.get("MLIP_GPU_JOBS", "1"))
        _take(gpus, count, jobs)
    return [torch.device("cuda", gpu) for gpu in list(_held)[:count]]


def device_of_rank(choice: str, local: int, count: int) -> torch.device:
    """The device of the process ``local`` of ``count`` that ``torchrun`` or ``srun`` has started on this machine.

    No lock: who starts the processes says by ``CUDA_VISIBLE_DEVICES`` or in the allocation which GPUs they have.

    Raises
    ------
    UserError : ``cuda`` without a GPU, or fewer GPUs than processes, and not one for each task.
    """
    gpus = _wanted_gpus(choice)
    if gpus is None:
        return torch.device("cpu")
    numbers = list(gpus)
    if len(numbers) > 1 or "TORCHELASTIC_RUN_ID" in os.environ:  # else srun shows each task its own
        _demand(gpus, max(count, local + 1))
        return torch.device("cuda", numbers[local])
    return torch.device("cuda", numbers[0])


def visible_gpus() -> list[str]:
    """UUIDs of the GPUs that this process sees, in CUDA's order; those of ``CUDA_VISIBLE_DEVICES`` where it is set."""
    if not torch.cuda.is_available():
        return []
    return [str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count())]


def _wanted_gpus(choice: str) -> dict[int, str] | None:
    """The GPUs that count, number -> UUID; None where the CPU is wanted."""
    if choice == "cpu":
        return None
    seen = dict(enumerate(visible_gpus()))
    listed = _assigned()
    if "CUDA_VISIBLE_DEVICES" not in os.environ and listed and len(seen) > len(listed):  # no cgroup hides the others
        seen = {n: uuid for n, uuid in seen.items() if n in listed}
    if seen:
        return seen
    if choice == "auto":
        return None
    raise UserError(
        "device is cuda, but this process sees no usable GPU", fix="set `device: auto` or `cpu` in the study"
    )


def _assigned() -> list[int] | None:
    """Numbers of the GPUs that Slurm gave to this job ([] where it does not tell them); None where it gave none."""
    told = os.environ
    if "SLURM_JOB_ID" not in told:
        return None
    numbers = told.get("SLURM_STEP_GPUS") or told.get("SLURM_JOB_GPUS")
    if numbers:
        return [int(n) for n in numbers.split(",") if n.isdigit()]
    return [] if told.get("CUDA_VISIBLE_DEVICES") else None


def _demand(gpus: dict[int, str], count: int) -> None:
    if len(gpus) < count:
        raise UserError(
            f"{count} GPUs are asked for, this process sees {len(gpus)}",
            where="pretrain.devices",
            fix="ask for fewer, or let the scheduler assign more",
        )


def _take(gpus: dict[int, str], count: int, jobs: int) -> None:
    """Lock ``count`` of the GPUs, all at once or none; blocks until so many are free."""
    if _assigned() is not None:
        for gpu in list(gpus)[:count]:
            _held[gpu] = None
        return
    waiting = False
    while True:
        found = dict(_held)
        for slot in range(jobs):
            for gpu, uuid in gpus.items():
                if len(found) < count and gpu not in found and (lock := _lock(f"{uuid}-{slot}.lock")):
                    found[gpu] = lock
        if len(found) == count:
            _held.update(found)
            return
        for gpu, lock in found.items():
            if gpu not in _held and lock:
                lock.close()  # kept while waiting for the rest, two jobs would wait for each other
        if not waiting:
            logger.info(f"{count} of {len(gpus)} GPUs are asked for, which other jobs have taken: waiting")
            waiting = True
        time.sleep(random.uniform(0.5, 1.5))


def _lock(name: str) -> IO[str] | None:
    lock = (_folder() / name).open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _folder() -> Path:
    """Where this user's locks lie; nobody else can write there, and nobody waits for another user's."""
    folder = Path(tempfile.gettempdir()) / f"mlip-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError("is not a folder of this user alone", where=folder, fix="remove it, or set TMPDIR")
    return folder
