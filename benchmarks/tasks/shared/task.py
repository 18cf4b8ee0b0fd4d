"""What a transfer task is. A module or package of ``benchmarks/tasks`` that sets ``TASK`` is found by its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from mlip.data.records import Reader
from mlip.errors import UserError
from mlip.methods import Entry
from mlip.paths import ROOT, StudyPaths
from mlip.study import Study, TaskConfig, describe

if TYPE_CHECKING:
    import torch


Value = TypeVar("Value")


@dataclass(frozen=True)
class Source:
    """A data set as tasks and protocols see it: by its reader, and the subset that the reader was asked for.

    The name that a study gives it means nothing to a protocol, so that it can be called anything.
    """

    name: str  # in the study
    kind: str  # its reader's name
    subset: str  # the reader's option of that name, "" for the whole
    reader: Reader
    options: Any

    @property
    def own_key(self) -> str:
        """Under which a protocol's tables speak of this data set before any other entry."""
        return f"{self.kind}/{self.subset}" if self.subset else self.kind

    def key(self, known: Iterable[str]) -> str | None:
        """The one of ``known`` that speaks of this data set: ``<reader>/<subset>`` before ``<reader>``; None if none does."""
        names = set(known)
        return next((k for k in (f"{self.kind}/{self.subset}", self.kind) if k in names), None)

    def of(self, table: Mapping[str, Value]) -> Value:
        """The entry of a protocol's ``datasets`` for this data set; whether there is one is checked before anything runs."""
        key = self.key(table)
        assert key is not None
        return table[key]


def entry_at(table: Mapping[int, Value], fraction: int) -> Value:
    """Of a protocol's table by label fraction (percent): the entry of the smallest key that is not below ``fraction``."""
    return table[min(k for k in table if k >= fraction)]


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
    source: Source
    method: str
    seed: int
    entry: Entry | None  # None for a control
    device: torch.device
    output: Path  # the predictions parquet
    made_by: str = ""  # the fingerprint of the predictions, "" where nothing is kept that could be told by it

    @property
    def dataset(self) -> str:
        """The study's name of the data set, which names its files and its random draws."""
        return self.source.name

    def names(self, task: str, fraction: int, draw: int) -> tuple[Any, ...]:
        """What the random numbers of one training are named by. Without the method: all rows of a table begin with the same
        head and see the same batches.
        """
        return self.study.seed, task, self.protocol_name, self.dataset, self.seed, fraction, draw

    @property
    def state(self) -> Path:
        """Folder of what a long evaluation keeps until its predictions are written (benchmarks/tasks/shared/state.py)."""
        task, *_ = self.output.parts[-5:]
        return self.paths.evaluation_state(task, self.protocol_name, self.dataset, self.method, self.seed)


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
    needs_maps: ClassVar[bool] = False  # builds on the feature maps of the method's image network
    label_draws: ClassVar[bool] = False  # trains on the splits' draws of label fractions
    length_keys: ClassVar[str] = "iterations"  # protocol keys that say how long a training is, for messages
    scored_later: ClassVar[tuple[str, ...]] = ()  # protocol keys that only say how predictions are scored
    added: ClassVar[tuple[str, ...]] = ()  # protocol keys that came later: at their defaults they are as if not there
    Protocol: ClassVar[type[Protocol]]

    @abstractmethod
    def run(self, job: EvalJob) -> pd.DataFrame:
        """Evaluate a method; the caller writes the returned rows to ``job.output``."""

    @abstractmethod
    def run_control(self, job: EvalJob) -> pd.DataFrame:
        """Predictions of the control named ``job.method``, in the same columns."""

    @abstractmethod
    def metrics(self, protocol: Any, source: Source) -> list[MetricSpec]:
        """The metrics of this task on this data set, the first being the one in the leaderboard."""

    @abstractmethod
    def check(self, protocol: Any, source: Source, study: Study) -> None:
        """Raise UserError before anything is trained where protocol and data set do not fit."""

    def texts(self, job: EvalJob) -> list[str]:
        """The texts that it asks every method to encode; for methods that look vectors of texts up."""
        return []

    def plan(self, protocol: Any, config: TaskConfig) -> list[tuple[int, int]]:
        """(fraction, draw) pairs to evaluate: several draws below 100 %, one at 100 % (all labels leave no choice)."""
        if not self.fraction_unit:
            return [(0, 0)]
        return [
            (f, d)
            for f in config.fractions
            for d in range(1 if f == 100 and self.fraction_unit == "%" else config.draws)
        ]

    def most_seen(self, protocol: Any, source: Source, fraction: int, films: int) -> int:
        """How many different films the longest training at a fraction can see, of those that it has labels of."""
        return films

    def with_target(self, protocol: Any, source: Source, target: dict[str, Any]) -> Any:
        """The protocol with what the study says of a data set (``tasks.<task>.targets``) in the place of its own entry.

        Raises
        ------
        UserError, pydantic's ValidationError : this task asks for nothing of the kind, or a key or value is wrong.
        """
        raise UserError("says nothing that this task asks for", fix="take it out")

    def settings(self, protocol: Any, source: Source) -> dict[str, Any]:
        """What of a protocol moves the predictions on one data set."""
        fields = type(protocol).model_fields
        absent = {key for key in self.added if getattr(protocol, key) == fields[key].default}
        values = protocol.model_dump(mode="json", exclude={"title", "lineage", "quirks", *self.scored_later, *absent})
        if isinstance(table := values.get("datasets"), dict):
            values["datasets"] = source.of(table)
        elif table is not None:
            values.pop("datasets")
        return values

    def skip_reason(self, entry: Entry, dataset: str) -> str:
        """Why a method has no cell here, or ""."""
        if self.needs_maps and not entry.manifest.feature_maps:
            return "the method's image network gives no feature maps"
        lacking = [c for c in self.requires if c not in entry.capabilities]
        return f"the method has no {' or '.join(lacking)} capability" if lacking else ""


def with_budget(protocol: Protocol, config: TaskConfig) -> Any:
    """The protocol with the study's budget overrides, validated again."""
    budget = config.budget_of(protocol.name)
    unknown = set(budget) - set(type(protocol).model_fields)
    if unknown:
        raise UserError(
            f"budget sets unknown protocol keys {sorted(unknown)}",
            where="tasks",
            fix=f"one of {sorted(type(protocol).model_fields)}, or the name of a protocol of the task",
        )
    return type(protocol).model_validate({**protocol.model_dump(), **budget})


def where_of(study: Study, task: str, protocol: Protocol, source: Source) -> str | Path:
    """Where it stands what a task predicts on a data set: in the study, or in the protocol's file."""
    if source.name in study.tasks[task].targets:
        return f"study {study.study}: tasks.{task}.targets.{source.name}"
    return ROOT / "benchmarks" / "protocols" / task / f"{protocol.name}.yaml"


def protocol_of(study: Study, task: Task, protocol: Protocol, source: Source) -> Any:
    """The protocol as a study uses it on one data set: with its budget, and with its target for the data set.

    Raises
    ------
    UserError : one of them has an unknown key or a wrong value.
    """
    config = study.tasks[task.name]
    changed = with_budget(protocol, config)
    if source.name not in config.targets:
        return changed
    try:
        return task.with_target(changed, source, config.targets[source.name])
    except (UserError, ValidationError) as error:
        problem, fix = (
            (describe(error), "see docs/own-data.md")
            if isinstance(error, ValidationError)
            else (error.problem, error.fix)
        )
        where = (
            error.where
            if isinstance(error, UserError) and error.where
            else where_of(study, task.name, protocol, source)
        )
        raise UserError(problem, where=where, fix=fix) from None
