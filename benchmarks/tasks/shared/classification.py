"""What the classification tasks share: which labels of a data set are scored, its cohort, and the rows of predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.tasks.shared.task import EvalJob, MetricSpec, Protocol, Source, Task, where_of
from mlip.data.splits import part_rows, read_splits, train_rows
from mlip.data.store import Store, open_store
from mlip.errors import UserError
from mlip.log import logger
from mlip.study import Study

Policy = Literal["drop", "positive", "negative"]
_VALUE = {"drop": np.nan, "positive": 1.0, "negative": 0.0}


class Target(BaseModel):
    """What is predicted on one data set: several yes/no labels, or one class out of several."""

    model_config = ConfigDict(extra="forbid")
    labels: list[str] = Field(min_length=1)
    kind: Literal["binary", "multiclass"] = "binary"
    uncertain: Policy | dict[str, Policy] = Field("drop", description="what a label of -1 becomes")
    missing: Policy = Field("drop", description="what a label that is not given (NaN) becomes")
    among: str = Field("", description="only images whose label of this name is 1 take part")

    def uncertain_for(self, label: str) -> Policy:
        return self.uncertain.get(label, "drop") if isinstance(self.uncertain, dict) else self.uncertain

    @property
    def needed(self) -> list[str]:
        """All label columns that are read."""
        return [*self.labels, *([self.among] if self.among else [])]

    @property
    def problems(self) -> list[str]:
        """Names of the problems to solve: one per label, or a single one for several classes."""
        return self.labels if self.kind == "binary" else ["class"]

    def class_names(self, problem: str) -> list[str]:
        return [f"no {problem}", problem] if self.kind == "binary" else self.labels

    def answers(self, records: pd.DataFrame) -> dict[str, np.ndarray]:
        """Per problem float [N]: the class number of each image, NaN where the image takes no part in the problem.

        With several classes an image takes part when exactly one of the label columns is 1.
        """
        columns = {}
        for label in self.labels:
            values = records[f"label.{label}"].to_numpy(dtype=np.float64, copy=True)
            values[values == -1] = _VALUE[self.uncertain_for(label)]
            values[np.isnan(values) & records[f"label.{label}"].isna().to_numpy()] = _VALUE[self.missing]
            if self.among:
                values[records[f"label.{self.among}"].to_numpy() != 1] = np.nan
            columns[label] = values
        if self.kind == "binary":
            return columns
        table = np.stack(list(columns.values()), axis=1)
        known = ~np.isnan(table).any(axis=1) & ((table == 1).sum(axis=1) == 1)
        return {"class": np.where(known, (table == 1).argmax(axis=1), np.nan)}

    def metrics(self) -> list[MetricSpec]:
        """AUROC first for yes/no labels, accuracy first for several classes (as the papers report)."""
        auroc = MetricSpec("auroc", "AUROC", {"average": "macro"})
        if self.kind == "binary":
            return [auroc, MetricSpec("average_precision", "Average precision", {"average": "macro"})]
        return [MetricSpec("accuracy_argmax", "Accuracy"), auroc]


@dataclass
class Cohort:
    """A data set as one classification job sees it."""

    store: Store
    splits: pd.DataFrame
    target: Target
    y: dict[str, np.ndarray]  # per problem: class number or NaN, [N]

    def part(self, name: str, problem: str) -> np.ndarray:
        """Rows of a part whose label of the problem is usable."""
        return self.usable(part_rows(self.splits, name), problem)

    def usable(self, rows: np.ndarray, problem: str) -> np.ndarray:
        return rows[~np.isnan(self.y[problem][rows])]

    def rows(self, problem: str, rows: np.ndarray, p: np.ndarray, fraction: int, draw: int) -> pd.DataFrame:
        """Prediction rows of one problem. ``p`` [n, classes] sums to 1; ``rows`` [n] are the images it is about."""
        people = self.store.records.iloc[rows]
        y = self.y[problem][rows].astype(np.int64)
        if self.target.kind == "binary":
            scored = [(problem, y, p[:, 1])]
        else:
            scored = [(name, (y == c).astype(np.int64), p[:, c]) for c, name in enumerate(self.target.labels)]
        common = {
            "image_id": people["image_id"].to_numpy(),
            "patient_id": people["patient_id"].to_numpy(),
            "fraction": fraction,
            "draw": draw,
        }
        return pd.concat(
            [pd.DataFrame({**common, "label": n, "y": t, "p": s}) for n, t, s in scored], ignore_index=True
        )


def load_cohort(job: EvalJob) -> Cohort:
    """Store, splits and resolved labels of a job.

    Raises
    ------
    UserError : the store lacks a label column, or no test image has a usable label.
    """
    store = open_store(job.paths.data(job.dataset))
    splits = read_splits(job.paths.splits(job.dataset))
    target: Target = job.source.of(job.protocol.datasets)
    if lacking := [label for label in target.needed if f"label.{label}" not in store.records]:
        raise UserError(
            f"the store of {job.dataset} has no label {', '.join(map(repr, lacking))}",
            where=job.paths.data(job.dataset) / "records.parquet",
            fix="name labels that the data set's reader gives",
        )
    cohort = Cohort(store, splits, target, target.answers(store.records))
    test = part_rows(splits, "test")
    for problem in target.problems:
        kept = len(cohort.usable(test, problem))
        if not kept:
            raise UserError(
                f"none of the {len(test)} test images of {job.dataset} has a usable label {problem!r}",
                where=job.paths.splits(job.dataset),
                fix="check the split rule, or the protocol's policy for missing and uncertain labels",
            )
        if kept < len(test):
            logger.info(
                "%s: %d of %d test images have no usable label %r", job.dataset, len(test) - kept, len(test), problem
            )
    return cohort


def labelled(cohort: Cohort, problem: str, fraction: int, draw: int) -> np.ndarray:
    """Rows that a draw of a label fraction trains a problem on."""
    return cohort.usable(train_rows(cohort.splits, fraction, draw), problem)


def constant(
    job: EvalJob,
    cells: list[tuple[int, int]],
    trained_on: Callable[[Cohort, str, int, int], np.ndarray] = labelled,
) -> pd.DataFrame:
    """The control ``constant``: at each fraction and draw each label's share among the rows that a method is trained on."""
    cohort, frames = load_cohort(job), []
    for fraction, draw in cells:
        for problem in cohort.target.problems:
            train, test = trained_on(cohort, problem, fraction, draw), cohort.part("test", problem)
            frames.append(cohort.rows(problem, test, prevalence(cohort, problem, train, test), fraction, draw))
    return pd.concat(frames, ignore_index=True)


class ClassificationTask(Task):
    """A task whose protocols hold a table of :class:`Target` by data set."""

    def with_target(self, protocol: Any, source: Source, target: dict[str, Any]) -> Any:
        values = {**protocol.model_dump(), "datasets": {**protocol.model_dump()["datasets"], source.own_key: target}}
        return type(protocol).model_validate(values)


def check_target(task: str, protocol: Protocol, source: Source, study: Study) -> None:
    """The protocol must know the data set, and the data set's reader must give the labels that the protocol scores.

    Raises
    ------
    UserError : it does not.
    """
    where, table = where_of(study, task, protocol, source), protocol.datasets  # type: ignore[attr-defined]
    if source.key(table) is None:
        raise UserError(
            f"does not say what to predict on {source.kind!r}, the reader of {source.name}",
            where=where,
            fix=f"say it in the study under tasks.{task}.targets.{source.name}, or use data sets of one of {sorted(table)}",
        )
    if lacking := [label for label in source.of(table).needed if label not in source.reader.labels]:
        raise UserError(
            f"scores {', '.join(map(repr, lacking))} on {source.name}, which the reader {source.kind!r} does not give",
            where=where,
            fix=f"use labels among {list(source.reader.labels)}",
        )


def prevalence(cohort: Cohort, problem: str, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The constant control: every test image gets the class shares of the training rows, [n, classes]."""
    classes = len(cohort.target.class_names(problem))
    share = np.bincount(cohort.y[problem][train].astype(np.int64), minlength=classes) / max(len(train), 1)
    return np.tile(share, (len(test), 1))


def require_classes(job: EvalJob, cohort: Cohort, problem: str, train: np.ndarray, what: str) -> None:
    """Every class must have a training row.

    Raises
    ------
    UserError : a class has none; names the data set, the label and the draw.
    """
    present = set(cohort.y[problem][train].astype(np.int64).tolist())
    lacking = [name for c, name in enumerate(cohort.target.class_names(problem)) if c not in present]
    if lacking:
        raise UserError(
            f"{job.dataset}: the {len(train)} training rows of {what} hold no {lacking[0]!r} (label {problem!r})",
            where=job.paths.splits(job.dataset),
            fix="use a larger label fraction or more images, or take the label out of the protocol",
        )
