"""Linear classification on frozen features, at several label fractions and draws."""

from __future__ import annotations

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
    require_classes,
)
from benchmarks.tasks.shared.features import read_features
from benchmarks.tasks.shared.probes import (
    AdamW,
    Logistic,
    adamw_probe,
    choose_strength,
    logistic_path,
    principal_axes,
    standardise,
)
from benchmarks.tasks.shared.task import EvalJob, MetricSpec, Protocol, Source
from mlip.data.splits import part_rows, train_rows
from mlip.errors import UserError
from mlip.log import progress
from mlip.seeding import generator
from mlip.study import Study


class LinearProbeProtocol(Protocol):
    """The classifier with all its numbers, and what is predicted on each data set."""

    solver: Logistic | AdamW = Field(discriminator="kind")
    datasets: dict[str, Target]


class LinearProbe(ClassificationTask):
    """Pooled features -> linear classifier. The encoder is never touched; the test part is only ever predicted."""

    name: ClassVar[str] = "linear_probe"
    title: ClassVar[str] = "Linear classification"
    needs: ClassVar[Any] = "features"
    controls: ClassVar[tuple[str, ...]] = ("constant",)
    label_draws: ClassVar[bool] = True
    Protocol: ClassVar[type[Protocol]] = LinearProbeProtocol

    def run(self, job: EvalJob) -> pd.DataFrame:
        """Rows ``image_id, patient_id, fraction, draw, label, y, p`` of the test part.

        Raises
        ------
        UserError : a draw holds no row of some class, or features, splits or labels do not fit.
        """
        cohort = load_cohort(job)
        path = job.paths.features(job.method, job.seed, job.dataset)
        features = read_features(path, cohort.store)
        probe = _adamw if isinstance(job.protocol.solver, AdamW) else _logistic
        cells = self.plan(job.protocol, job.task)
        frames = []
        with progress() as bar:
            for fraction, draw in bar.track(cells, description=f"{self.name} {job.dataset} {job.method}"):
                frames += probe(job, cohort, features, fraction, draw)
        return pd.concat(frames, ignore_index=True)

    def run_control(self, job: EvalJob) -> pd.DataFrame:
        return constant(job, self.plan(job.protocol, job.task))

    def metrics(self, protocol: LinearProbeProtocol, source: Source) -> list[MetricSpec]:
        return source.of(protocol.datasets).metrics()

    def check(self, protocol: LinearProbeProtocol, source: Source, study: Study) -> None:
        check_target(self.name, protocol, source, study)


def _logistic(job: EvalJob, cohort: Cohort, features: np.ndarray, fraction: int, draw: int) -> list[pd.DataFrame]:
    """Each label is its own problem. The penalty is chosen inside the draw's training rows, at every fraction alike.

    Neither validation nor test rows are read: validation labels are labels too, and few of them choose badly.
    """
    settings: Logistic = job.protocol.solver
    drawn, test = train_rows(cohort.splits, fraction, draw), part_rows(cohort.splits, "test")
    x, z = principal_axes(*standardise(features[drawn], features[test]))
    patients, frames = cohort.store.records["patient_id"].to_numpy(), []
    for problem in cohort.target.problems:
        y = cohort.y[problem]
        use, score = ~np.isnan(y[drawn]), ~np.isnan(y[test])
        rows = drawn[use]
        require_classes(job, cohort, problem, rows, f"draw {draw} at {fraction} %")
        labels = y[rows].astype(np.int64)
        rng = generator(job.study.seed, "linear_probe", job.dataset, problem, fraction, draw)
        strength = choose_strength(x[use], labels, patients[rows], settings, rng)
        (model,) = logistic_path(x[use], labels, [strength], settings.max_iter)
        frames.append(cohort.rows(problem, test[score], model.probabilities(z[score]), fraction, draw))
    return frames


def _adamw(job: EvalJob, cohort: Cohort, features: np.ndarray, fraction: int, draw: int) -> list[pd.DataFrame]:
    """One layer for all labels, as in the lineage: rows with any unusable label are left out of training."""
    problems = cohort.target.problems
    table = np.stack([cohort.y[p] for p in problems], axis=1)

    def known(rows: np.ndarray) -> np.ndarray:
        return rows[~np.isnan(table[rows]).any(axis=1)]

    train, val = known(train_rows(cohort.splits, fraction, draw)), known(part_rows(cohort.splits, "val"))
    if not len(val):
        raise UserError(
            f"{job.dataset} has no validation rows, which {job.protocol_name} stops on",
            where=job.paths.splits(job.dataset),
            fix="use a split rule with a validation part, or the strict protocol",
        )
    several = cohort.target.kind == "multiclass"
    for problem in problems:
        require_classes(job, cohort, problem, train, f"draw {draw} at {fraction} %")
    answers = table[:, 0] if several else table
    test = part_rows(cohort.splits, "test")
    p = adamw_probe(
        (features[train], answers[train]),
        (features[val], answers[val]),
        features[test],
        job.protocol.solver,
        len(cohort.target.labels),
        *(job.study.seed, "linear_probe", job.protocol_name, job.dataset, fraction, draw),
    )
    frames = []
    for number, problem in enumerate(problems):
        score = ~np.isnan(cohort.y[problem][test])
        shares = p[score] if several else np.stack([1 - p[score, number], p[score, number]], axis=1)
        frames.append(cohort.rows(problem, test[score], shares, fraction, draw))
    return frames


TASK = LinearProbe()
