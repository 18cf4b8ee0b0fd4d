"""What a long evaluation keeps while it runs, so that a killed job goes on instead of beginning anew.

It lies outside the outputs that Snakemake knows and deletes, and is of one fingerprint: what another code or protocol left
is thrown away.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.tasks.shared.task import EvalJob


class State:
    """One training that is not done yet. ``seconds``: how often it is written."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds, self.last = path, seconds, time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.last > self.seconds

    def save(self, values: dict[str, Any]) -> None:
        """In one step: a job that is killed while it writes leaves the state before."""
        import torch

        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.draft")
        torch.save(values, draft)
        draft.replace(self.path)
        self.last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last, on the CPU; None where nothing was."""
        import torch

        if not self.path.is_file():
            return None
        kept: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        return kept


class Kept:
    """Predictions of the trainings of one evaluation that are done, and the state of the one that is not.

    A job without a fingerprint (``made_by`` "") keeps nothing.
    """

    def __init__(self, job: EvalJob) -> None:
        self.folder = job.state if job.made_by else None
        self.seconds = job.study.pretrain.checkpoint_seconds
        if self.folder is None:
            return
        mark = self.folder / "fingerprint"
        if not mark.is_file() or mark.read_text(encoding="utf-8") != job.made_by:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            mark.write_text(job.made_by, encoding="utf-8")

    def table(
        self, cells: list[tuple[int, int]], train: Callable[[int, int, State | None], pd.DataFrame]
    ) -> pd.DataFrame:
        """The predictions of all trainings, one for each fraction and draw."""
        return pd.concat([self.rows(f, d, partial(train, f, d)) for f, d in cells], ignore_index=True)

    def rows(self, fraction: int, draw: int, train: Callable[[State | None], pd.DataFrame]) -> pd.DataFrame:
        """The predictions of one training: as they were kept, or from ``train``."""
        if self.folder is None:
            return train(None)
        done = self.folder / f"f{fraction}.d{draw}.parquet"
        if done.is_file():
            return pd.read_parquet(done)
        state = State(self.folder / f"f{fraction}.d{draw}.pt", self.seconds)
        rows = train(state)
        draft = done.with_suffix(".draft")
        rows.to_parquet(draft)
        draft.replace(done)
        state.path.unlink(missing_ok=True)
        return rows
