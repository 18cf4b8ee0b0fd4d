"""What a transfer task is. A module or package of ``benchmarks`` that sets ``TASK`` is found by its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict

from mlip.errors import UserError
from mlip.methods import Entry
from mlip.paths import StudyPaths
from mlip.study import Study, TaskConfig

if TYPE_CHECKING:
    import torch


class Protocol(BaseModel):
    """Everything that moves a task's numbers; tasks subclass it. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")
    name: str
    title: str
    lineage: str = ""  # the paper or repository it follows, "" for our own strict one
    quirks: list[str] = []


@dataclass(frozen=True)
class EvalJob:
    """One evaluation: a task under a protocol on a data set for one row (method or control) and pre-training seed."""

    study: Study
    paths: StudyPaths
    task: TaskConfig
    protocol: Any  # the task's own Protocol subclass
    protocol_name: str
    dataset: str
    method: str
    seed: int
    entry: Entry | None  # None for a control
    device: torch.device
    output: Path  # the predictions parquet


@dataclass(frozen=True)
class MetricSpec:
    """A metric of a task on a data set: key into ``benchmarks.scores.metrics.METRICS``, its printed name, its arguments."""

    key: str
    title: str
    args: dict[str, Any] = field(default_factory=dict)


class Task(ABC):
    """One transfer task.

    ``run`` writes ``job.output``: one row per test image, fraction and draw. Columns common to all tasks:
    ``image_id``, ``patient_id`` (hashed), ``fraction`` (percent, shots, or 0 where nothing is trained), ``draw``.
    Further columns by kind: classification ``label, y, p``; ranking (retrieval) ``label, rank``; segmentation
    ``tp, predicted, truth`` (pixels); detection ``n_truth, scores, matched`` (see benchmarks/tasks/detection).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[Literal["features", "method"]]  # features files, or the method's checkpoint itself
    controls: ClassVar[tuple[str, ...]] = ()  # rows that need no method, e.g. ("constant",)
    requires: ClassVar[tuple[str, ...]] = ()  # capabilities a method must have
    fraction_unit: ClassVar[str] = "%"  # "%", "shots" or "" (one cell without training)
    Protocol: ClassVar[type[Protocol]]

    @abstractmethod
    def run(self, job: EvalJob) -> pd.DataFrame:
        """Evaluate a method; the caller writes the returned rows to ``job.output``."""

    @abstractmethod
    def run_control(self, job: EvalJob) -> pd.DataFrame:
        """Predictions of the control named ``job.method``, in the same columns."""

    @abstractmethod
    def metrics(self, protocol: Any, dataset: str) -> list[MetricSpec]:
        """The metrics of this task on this data set, the first being the one in the leaderboard."""

    @abstractmethod
    def check(self, protocol: Any, dataset: str, study: Study) -> None:
        """Raise UserError before anything is trained where protocol and data set do not fit."""

    def plan(self, protocol: Any, config: TaskConfig) -> list[tuple[int, int]]:
        """(fraction, draw) pairs to evaluate: several draws below 100 %, one at 100 % (all labels leave no choice)."""
        if not self.fraction_unit:
            return [(0, 0)]
        return [
            (f, d)
            for f in config.fractions
            for d in range(1 if f == 100 and self.fraction_unit == "%" else config.draws)
        ]

    def skip_reason(self, entry: Entry, dataset: str) -> str:
        """Why a method has no cell here, or ""."""
        lacking = [c for c in self.requires if c not in entry.manifest.capabilities]
        return f"the method has no {' or '.join(lacking)} capability" if lacking else ""


def with_budget(protocol: Protocol, config: TaskConfig) -> Any:
    """The protocol with the study's budget overrides, validated again."""
    unknown = set(config.budget) - set(type(protocol).model_fields)
    if unknown:
        raise UserError(
            f"budget sets unknown protocol keys {sorted(unknown)}",
            where="tasks",
            fix=f"one of {sorted(type(protocol).model_fields)}",
        )
    return type(protocol).model_validate({**protocol.model_dump(), **config.budget})
