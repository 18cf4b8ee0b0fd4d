"""The fine-tuning task. Torch is imported only when an encoder is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from benchmarks.tasks.fine_tuning.protocol import FineTuningProtocol, Training
from benchmarks.tasks.shared.augment import augment_images
from benchmarks.tasks.shared.classification import (
    ClassificationTask,
    check_target,
    constant,
    load_cohort,
    require_classes,
)
from benchmarks.tasks.shared.task import EvalJob, MetricSpec, Source, entry_at
from mlip.data.splits import part_rows, train_rows
from mlip.errors import UserError
from mlip.methods import Entry
from mlip.seeding import generator, seed_everything
from mlip.study import Study

if TYPE_CHECKING:
    from benchmarks.tasks.fine_tuning.model import Classifier
    from benchmarks.tasks.shared.state import State

TEST_BATCH = 64


class FineTuningTask(ClassificationTask):
    """The pre-trained encoder and a linear head, trained together on the draw's films; the test part is only predicted.

    Rows: ``image_id, patient_id, fraction, draw, label, y, p, seen, labelled`` of the test part.
    """

    name = "fine_tuning"
    title = "Fine-tuned classification"
    needs: ClassVar[Literal["features", "method"]] = "method"
    controls = ("constant",)
    label_draws = True
    length_keys = "training or max_steps"
    Protocol = FineTuningProtocol

    def run(self, job: EvalJob) -> pd.DataFrame:
        """Train and predict once for each fraction and draw; what is done is kept until all are.

        Raises
        ------
        UserError : a draw holds no film of some class, a loss is not finite, or the method cannot be fine-tuned.
        """
        from benchmarks.tasks.shared.state import Kept
        from benchmarks.tasks.shared.training import deterministic

        tuning = _FineTuning(job)
        with deterministic(job.device):
            return Kept(job).table(self.plan(job.protocol, job.task), tuning.train)

    def run_control(self, job: EvalJob) -> pd.DataFrame:
        from benchmarks.tasks.shared.training import NOT_TRAINED

        return constant(job, self.plan(job.protocol, job.task)).assign(**NOT_TRAINED.films)

    def metrics(self, protocol: FineTuningProtocol, source: Source) -> list[MetricSpec]:
        return source.of(protocol.datasets).metrics()

    def check(self, protocol: FineTuningProtocol, source: Source, study: Study) -> None:
        check_target(self.name, protocol, source, study)

    def most_seen(self, protocol: FineTuningProtocol, source: Source, fraction: int, films: int) -> int:
        steps, _ = _training(protocol, source, fraction).length(films, protocol.batch_size, protocol.max_steps)
        return min(films, steps * protocol.batch_size)

    def skip_reason(self, entry: Entry, dataset: str) -> str:
        return "" if entry.manifest.feature_maps else "the method has no image network that could be trained"


def _training(protocol: FineTuningProtocol, source: Source, fraction: int) -> Training:
    """How a data set is trained at a fraction: as its own entry says, or as the protocol does."""
    return entry_at(source.of(protocol.datasets).training or protocol.training, fraction)


class _FineTuning:
    """One job: its films and labels, and the classifier that each training begins with."""

    def __init__(self, job: EvalJob) -> None:
        from benchmarks.tasks.fine_tuning.model import Classifier
        from mlip.pretraining.checkpoints import load_method

        assert job.entry is not None
        self.job, self.protocol = job, job.protocol
        self.side = job.study.input_side  # of what the encoder is given
        self.cohort = load_cohort(job)
        self.several = self.cohort.target.kind == "multiclass"
        table = np.stack([self.cohort.y[p] for p in self.cohort.target.problems], axis=1)
        self.answers = (table[:, 0] if self.several else table).astype(np.float32)  # [N] or [N, K]
        self.validation = self._known(part_rows(self.cohort.splits, "val"))
        if self.protocol.selection == "best_val":
            self._demand_validation()
        method = load_method(job.study, job.entry, job.seed).to(job.device)
        self.model: Classifier = Classifier(
            method, self.protocol, len(self.cohort.target.labels), self.side, job.entry.folder
        )

    def train(self, fraction: int, draw: int, state: State | None) -> pd.DataFrame:
        """Rows of one training."""
        import torch

        from benchmarks.tasks.fine_tuning.model import loss
        from benchmarks.tasks.shared.training import Recipe, Shuffled, fit, parameter_groups, report

        job, protocol, cohort, model = self.job, self.protocol, self.cohort, self.model
        rows = self._known(train_rows(cohort.splits, fraction, draw))
        for problem in cohort.target.problems:
            use = cohort.usable(rows, problem)
            require_classes(job, cohort, problem, use, f"draw {draw} at {fraction} %")
        training = _training(protocol, job.source, fraction)
        steps, rising = training.length(len(rows), protocol.batch_size, protocol.max_steps)
        names = job.names(FineTuningTask.name, fraction, draw)
        seed_everything(*names, "head")
        model.restart()
        recipe = Recipe(
            protocol=protocol.name, lr=training.lr, weight_decay=protocol.weight_decay, spacing=max(1, steps // (protocol.readings or 1)),
            schedule=protocol.schedule, warmup=rising, optimiser=protocol.optimiser, betas=protocol.betas, momentum=protocol.momentum,
            clip=protocol.clip, selection=protocol.selection,
        )  # fmt: skip
        batches = Shuffled(rows, steps, protocol.batch_size, lambda number: generator(*names, "batches", number))

        def loss_of(batch: np.ndarray) -> torch.Tensor:
            films = augment_images(self._films(batch), protocol.augmentation, self.side)
            return loss(self._logits(films), torch.from_numpy(self.answers[batch]).to(job.device))

        fitted = fit(
            model,
            loss_of,
            batches,
            recipe,
            len(rows),
            self._score if protocol.selection == "best_val" else None,
            groups=parameter_groups(
                model.encoder, [model.norm, model.head], protocol.weight_decay, protocol.layer_decay
            ),
            seeds=(*names, "step"),
            state=state,
        )
        report(job, fraction, draw, fitted, FineTuningTask.length_keys)
        test = part_rows(cohort.splits, "test")
        p, frames = self._predict(test), []
        for number, problem in enumerate(cohort.target.problems):
            score = ~np.isnan(cohort.y[problem][test])
            shares = p[score] if self.several else np.stack([1 - p[score, number], p[score, number]], axis=1)
            frames.append(cohort.rows(problem, test[score], shares, fraction, draw))
        return pd.concat(frames, ignore_index=True).assign(**fitted.films)

    def _known(self, rows: np.ndarray) -> np.ndarray:
        """Those of which some label is known."""
        known = ~np.isnan(self.answers[rows])
        return rows[known if self.several else known.any(axis=1)]

    def _demand_validation(self) -> None:
        y = [self.cohort.y[p][self.validation] for p in self.cohort.target.problems]
        if not any(len(np.unique(v[~np.isnan(v)])) > 1 for v in y):
            raise UserError(
                f"the validation part of {self.job.dataset} has no label of two kinds, on which {self.job.protocol_name} chooses",
                where=self.job.paths.splits(self.job.dataset),
                fix="use a split rule with a validation part, or a protocol with `selection: last`",
            )

    def _films(self, rows: np.ndarray) -> np.ndarray:
        from mlip.data.pixels import load

        return load(self.cohort.store.images, rows)

    def _seen(self, rows: np.ndarray) -> np.ndarray:
        """Films as encoders see them outside training: their centre, where the study crops."""
        from mlip.data.pixels import centre

        return centre(self._films(rows), self.job.study.crop_size)

    def _logits(self, films: np.ndarray) -> Any:
        from mlip.data.pixels import to_tensor

        return self.model(to_tensor(films, self.job.device))

    def _predict(self, rows: np.ndarray) -> np.ndarray:
        """float64 [n, K]; the model is in eval mode."""
        import torch

        from benchmarks.tasks.fine_tuning.model import probabilities

        chunks = [rows[start : start + TEST_BATCH] for start in range(0, len(rows), TEST_BATCH)]
        with torch.no_grad():
            found = [probabilities(self._logits(self._seen(chunk)), self.several) for chunk in chunks]
        return torch.cat(found).double().cpu().numpy()

    def _score(self) -> float:
        """Macro AUROC of the validation part, over the labels (or classes, one against the others) that it has both kinds of."""
        from sklearn.metrics import roc_auc_score

        p, found = self._predict(self.validation), []
        truth = self.answers[self.validation]
        if self.several:
            truth = (truth[:, None] == np.arange(p.shape[1])).astype(np.float32)
        for y, score in zip(truth.T, p.T, strict=True):
            known = ~np.isnan(y)
            if len(np.unique(y[known])) > 1:
                found.append(roc_auc_score(y[known], score[known]))
        return float(np.mean(found))
