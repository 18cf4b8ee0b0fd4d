"""Few-shot classification: k images per class, a fixed classifier, no validation data at all."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from benchmarks.tasks.shared.classification import (
    ClassificationTask,
    Cohort,
    Target,
    check_target,
    constant,
    load_cohort,
)
from benchmarks.tasks.shared.features import read_features
from benchmarks.tasks.shared.probes import logistic_path, principal_axes, standardise
from benchmarks.tasks.shared.task import EvalJob, MetricSpec, Protocol, Source
from mlip.data.splits import part_rows
from mlip.errors import UserError
from mlip.log import progress
from mlip.seeding import generator
from mlip.study import Study


class FewShotProtocol(Protocol):
    """A fixed penalty: with a handful of labels there is nothing to choose it on."""

    strength: float = Field(gt=0, description="factor of ||w||^2/2 beside the mean log loss")
    max_iter: int = Field(1000, gt=0)
    datasets: dict[str, Target]


def shots(job: EvalJob, cohort: Cohort, problem: str, k: int, draw: int) -> np.ndarray:
    """Rows of k images per class from the train part, each of another patient within its class.

    The order of the candidates depends on data set, label and draw only: all methods see the same shots, and k shots
    are the first of any larger number.

    Raises
    ------
    UserError : some class has fewer than k patients in the train part.
    """
    train, chosen = cohort.part("train", problem), []
    y = cohort.y[problem][train]
    patients = cohort.store.records["patient_id"].to_numpy()
    for number, name in enumerate(cohort.target.class_names(problem)):
        candidates = generator(job.study.seed, "few_shot", job.dataset, problem, number, draw).permutation(
            train[y == number]
        )
        one_each = candidates[np.sort(np.unique(patients[candidates], return_index=True)[1])]
        if len(one_each) < k:
            raise UserError(
                f"{job.dataset}: {k} shots of {name!r} asked for in draw {draw}, the train part has {len(one_each)} such patients",
                where=job.paths.splits(job.dataset),
                fix="ask for fewer shots under tasks.few_shot.fractions, or use more images",
            )
        chosen.append(one_each[:k])
    return np.concatenate(chosen)


class FewShot(ClassificationTask):
    """Pooled features -> logistic regression on k shots per class; ``fraction`` holds k."""

    name: ClassVar[str] = "few_shot"
    title: ClassVar[str] = "Few-shot classification"
    needs: ClassVar[Any] = "features"
    controls: ClassVar[tuple[str, ...]] = ("constant",)
    fraction_unit: ClassVar[str] = "shots"
    Protocol: ClassVar[type[Protocol]] = FewShotProtocol

    def run(self, job: EvalJob) -> pd.DataFrame:
        """Rows ``image_id, patient_id, fraction, draw, label, y, p`` of the test part.

        Raises
        ------
        UserError : a class has too few patients, or features, splits or labels do not fit.
        """
        cohort = load_cohort(job)
        path = job.paths.features(job.method, job.seed, job.dataset)
        features = read_features(path, cohort.store)
        # Scale comes from the train part WITHOUT its labels: two shots have no standard deviation worth the name.
        scaled = np.empty(features.shape)
        pool, test_rows = part_rows(cohort.splits, "train"), part_rows(cohort.splits, "test")
        scaled[pool], scaled[test_rows] = standardise(features[pool], features[test_rows])
        cells, frames = self.plan(job.protocol, job.task), []
        with progress() as bar:
            for k, draw in bar.track(cells, description=f"{self.name} {job.dataset} {job.method}"):
                for problem in cohort.target.problems:
                    train, test = shots(job, cohort, problem, k, draw), cohort.part("test", problem)
                    x, z = principal_axes(scaled[train], scaled[test])
                    y = cohort.y[problem][train].astype(np.int64)
                    (model,) = logistic_path(x, y, [job.protocol.strength], job.protocol.max_iter)
                    frames.append(cohort.rows(problem, test, model.probabilities(z), k, draw))
        return pd.concat(frames, ignore_index=True)

    def run_control(self, job: EvalJob) -> pd.DataFrame:
        """``constant``: the class shares among the shots, which are equal."""
        return constant(job, self.plan(job.protocol, job.task), partial(shots, job))

    def metrics(self, protocol: FewShotProtocol, source: Source) -> list[MetricSpec]:
        return source.of(protocol.datasets).metrics()

    def check(self, protocol: FewShotProtocol, source: Source, study: Study) -> None:
        check_target(self.name, protocol, source, study)


TASK = FewShot()
