"""Which images of a data set may be trained and tested on: those whose target is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.tasks.shared.task import EvalJob
from mlip.data.splits import part_rows, read_splits, train_rows
from mlip.data.store import Store
from mlip.errors import UserError
from mlip.log import logger
from mlip.seeding import generator


class KnownRows:
    """Row numbers of a data set by part, without the images whose target is not known.

    Parameters
    ----------
    job : the evaluation.
    known : bool [N], whether the target of each image is known. An image of which nobody said where the finding is
        must be left out, not taken for one without the finding.
    """

    def __init__(self, job: EvalJob, store: Store, known: np.ndarray) -> None:
        self.job, self.records, self.known = job, store.records, known
        self.splits = read_splits(job.paths.splits(job.dataset))
        self.dropped = {part: int((~known[part_rows(self.splits, part)]).sum()) for part in ("train", "val", "test")}
        if any(self.dropped.values()):
            logger.info("%s %s: images left out, target not known: %s", job.dataset, job.method, self.dropped)

    def train(self, fraction: int, draw: int) -> np.ndarray:
        """Training rows of a draw at a label fraction, ascending.

        Raises
        ------
        UserError : the draw holds no image with a known target.
        """
        rows = self._known(train_rows(self.splits, fraction, draw))
        if not len(rows):
            raise UserError(
                f"no training image with a known target at {fraction} % in draw {draw}",
                where=self.job.paths.splits(self.job.dataset),
                fix="use larger label fractions for this data set",
            )
        return rows

    def part(self, name: str) -> np.ndarray:
        """Rows of ``val`` or ``test``, ascending. Raises UserError where there is none."""
        rows = self._known(part_rows(self.splits, name))
        if not len(rows):
            raise UserError(
                f"the {name} part holds no image with a known target",
                where=self.job.paths.splits(self.job.dataset),
                fix="check the data set's annotations and split rule",
            )
        return rows

    def validation(self, positive: Callable[[np.ndarray], np.ndarray], most: int | None) -> np.ndarray:
        """The rows of ``val`` that are read during a training (:func:`validation_rows`), the same for all rows of a table.

        Parameters
        ----------
        positive : row numbers [n] -> bool [n], whether the images have a target.
        """
        rows = self.part("val")
        return validation_rows(rows, positive(rows), most, generator(self.job.study.seed, "val", self.job.dataset))

    def identifiers(self, rows: np.ndarray) -> pd.DataFrame:
        """``image_id`` and ``patient_id`` (hashed) of the rows, in their order, with a fresh index."""
        return self.records.iloc[rows][["image_id", "patient_id"]].reset_index(drop=True)

    def _known(self, rows: np.ndarray) -> np.ndarray:
        rows = np.sort(np.asarray(rows, dtype=np.int64))
        return rows[self.known[rows]]


def validation_rows(rows: np.ndarray, positive: np.ndarray, most: int | None, rng: np.random.Generator) -> np.ndarray:
    """At most ``most`` of the validation rows, half of them positive where there are enough; ascending."""
    if most is None or len(rows) <= most:
        return rows
    ones, zeros = (rng.permutation(rows[which]) for which in (positive, ~positive))
    count = min(len(ones), max(most // 2, most - len(zeros)))
    return np.sort(np.concatenate([ones[:count], zeros[: most - count]]))
