"""Which device a job uses. Jobs that run at the same time take different GPUs, and wait where all are taken."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import IO

import torch

from mlip.errors import UserError
from mlip.log import logger

_held: list[IO[str]] = []  # the lock lives as long as the process


def best_device(choice: str = "auto") -> torch.device:
    """The configured device; ``auto`` takes a GPU where there is one.

    ``snakemake --cores all`` starts as many jobs as there are cores and knows nothing of GPUs: each job takes a free
    one by a file lock that ends with its process. ``MLIP_GPU_JOBS`` (default 1) jobs share one GPU.
    """
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    if choice == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "device is cuda, but this machine has no usable GPU", fix="set `device: auto` or `cpu` in the study"
        )
    return torch.device("cuda", _take_gpu(torch.cuda.device_count(), int(os.environ.get("MLIP_GPU_JOBS", "1"))))


def _take_gpu(count: int, jobs: int) -> int:
    """Index of a GPU with a free slot; blocks until there is one."""
    if _held:
        return int(Path(_held[0].name).stem.split("-")[2])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "_")
    waiting = False
    while True:
        for slot in range(jobs):
            for gpu in range(count):
                name = f"mlip-{visible}-{gpu}-{slot}.lock"
                lock = (Path(tempfile.gettempdir()) / name).open("w", encoding="utf-8")
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    lock.close()
                    continue
                _held.append(lock)
                return gpu
        if not waiting:
            logger.info(f"all {count} GPUs are taken by other jobs, waiting for one")
            waiting = True
        time.sleep(1.0)
