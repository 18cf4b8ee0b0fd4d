"""The processes of one training: who starts them, which of them this is, and what they tell each other.

They are started by ``torchrun`` or ``srun``, or, where neither was used, by :func:`start` on this machine. A process holds one device.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments import SLURMEnvironment
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from mlip.errors import UserError
from mlip.log import setup_logging
from mlip.workers import end_with


@dataclass(frozen=True)
class Ranks:
    """This process among those of its training."""

    rank: int = 0  # 0 alone writes files
    count: int = 1
    local: int = 0  # among those on this machine: which of its devices
    nodes: int = 1
    meeting: str = ""  # where they find each other: an address of torch.distributed


ALONE = Ranks()


def launched() -> Ranks:
    """What ``torchrun`` or ``srun`` has started; :data:`ALONE` where neither was used, or ``srun`` started one task."""
    told = os.environ
    if "TORCHELASTIC_RUN_ID" in told:
        address = f"tcp://{told['MASTER_ADDR']}:{told['MASTER_PORT']}"
        rank, count, local = (int(told[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return Ranks(rank, count, local, int(told.get("GROUP_WORLD_SIZE", "1")), address if count > 1 else "")
    if int(told.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in told:
        nodes = int(told.get("SLURM_STEP_NUM_NODES", told.get("SLURM_NNODES", "1")))
        listed = told.get("SLURM_STEP_NODELIST", told.get("SLURM_NODELIST", "localhost"))
        host = told.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(listed)
        # A port that all tasks of a step know, and that two steps at once on one machine do not share.
        step = int(told.get("SLURM_JOB_ID", "0")) * 10 + int(told.get("SLURM_STEP_ID", "0"))
        address = f"tcp://{host}:{told.get('MASTER_PORT') or 15000 + step % 10000}"
        rank, count, local = (int(told[name]) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))
        return Ranks(rank, count, local, nodes, address)
    return ALONE


def was_launched() -> bool:
    """Whether somebody else decides how many processes there are: then a wrong number is an error."""
    return "TORCHELASTIC_RUN_ID" in os.environ or launched().count > 1


def start(count: int, action: Callable[..., None], *arguments: Any) -> None:
    """Run ``action(ranks, *arguments)`` in ``count`` processes on this machine, and wait for their end.

    They end when this process ends, however it does. Where one fails the others are stopped.

    Raises
    ------
    UserError : one of them raised it.
    RuntimeError : one of them failed otherwise; its traceback is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="mlip-processes-") as folder:
        given = (count, folder, os.getpid(), action, arguments)
        context = start_processes(_process, given, nprocs=count, join=False, start_method="spawn")
        try:
            while not context.join():
                pass
        except (ProcessRaisedException, ProcessExitedException) as error:
            for told in sorted(Path(folder).glob("error-*")):
                raise UserError(**pickle.loads(told.read_bytes())) from None
            raise RuntimeError(f"a process of the training failed: {error}") from None


def _process(rank: int, count: int, folder: str, parent: int, action: Callable[..., None], arguments: Any) -> None:
    end_with(parent)
    if rank == 0:
        setup_logging()
    try:
        action(Ranks(rank, count, rank, 1, f"file://{folder}/meeting"), *arguments)
    except UserError as error:
        told = {"problem": error.problem, "where": error.where, "fix": error.fix}
        (Path(folder) / f"error-{rank}").write_bytes(pickle.dumps(told))
        raise


@contextmanager
def together(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """The processes can talk to each other inside: nccl between GPUs, gloo between CPUs."""
    if ranks.count == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=ranks.meeting, rank=ranks.rank, world_size=ranks.count)
    try:
        yield
        dist.barrier()  # nobody leaves while another still reads or writes
    finally:
        dist.destroy_process_group()
