"""One training of detection or segmentation: its films, its batches, and the fit of the head (and of the encoder below it)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from benchmarks.tasks.shared.dense.data import KnownRows
from benchmarks.tasks.shared.dense.features import Features
from benchmarks.tasks.shared.dense.protocol import DenseProtocol, at_fraction
from benchmarks.tasks.shared.state import State
from benchmarks.tasks.shared.task import EvalJob
from benchmarks.tasks.shared.training import Fitted, draw_batches, fit, report
from mlip.seeding import generator, seed_everything


class HeadTraining:
    """``few`` are the validation films that are read during the training.

    Parameters
    ----------
    positive : row numbers [n] -> bool [n], whether the films have a target.
    """

    def __init__(
        self,
        task: str,
        job: EvalJob,
        rows: KnownRows,
        positive: Callable[[np.ndarray], np.ndarray],
        fraction: int,
        draw: int,
    ) -> None:
        self.job, self.fraction, self.draw = job, fraction, draw
        self.protocol: DenseProtocol = job.protocol
        self._films = rows.train(fraction, draw)
        self.few = rows.validation(positive, self.protocol.validation_images)
        self._names = job.names(task, fraction, draw)
        self._batches = draw_batches(
            self._films,
            positive(self._films),
            self.protocol.length(fraction, len(self._films)),
            at_fraction(self.protocol.batch_size, fraction),
            job.source.kind in self.protocol.balanced,
            generator(*self._names, "batches"),
        )

    def seed(self, what: str) -> None:
        """Before the head is made: the first weights are the same for all rows of a table."""
        seed_everything(*self._names, what)

    def fit(
        self,
        head: nn.Module,
        features: Features,
        loss_of: Callable[[np.ndarray], Tensor],
        validate: Callable[[], float],
        state: State | None,
    ) -> Fitted:
        """Train ``head``, and the encoder where the protocol does not freeze it; see :func:`benchmarks.tasks.shared.training.fit`."""
        protocol, films = self.protocol, len(self._films)
        whole, groups = features.begin(head, protocol)
        fitted = fit(
            whole,
            loss_of,
            self._batches,
            protocol.recipe(self.fraction, films),
            films,
            validate if protocol.selection == "best_val" else None,
            features.prepare,
            groups=groups,
            seeds=() if protocol.frozen else (*self._names, "step"),
            state=None if protocol.frozen else state,
        )
        report(self.job, self.fraction, self.draw, fitted)
        return fitted
