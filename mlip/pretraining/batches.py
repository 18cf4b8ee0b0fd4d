"""Image-report pairs for pre-training: the rows of the stores that have a report, and the batches drawn from them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from mlip.contract import Batch
from mlip.data.augmentation import augmented
from mlip.data.pixels import augment, centre, load, to_tensor
from mlip.data.splits import part_rows, read_splits
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.manifest import AugmentSpec
from mlip.paths import StudyPaths
from mlip.seeding import generator, torch_generator
from mlip.text.reports import Report, parse_report

if TYPE_CHECKING:
    from mlip.contract import Method
    from mlip.knowledge.entities import Knowledge
    from mlip.study import Study


class Pairs:
    """All pairs of one part (train or val) over the study's pre-training data sets, or those of a share of the patients.

    ``share`` is in percent; smaller shares lie within larger ones, and every method and seed gets the same. ``whole`` is the
    number of pairs of all patients.

    Raises
    ------
    UserError : no row of the training part has a report with a FINDINGS or IMPRESSION sentence, and ``needed`` says that
        some must.
    """

    def __init__(self, study: Study, part: str, needed: bool = True, share: int = 100) -> None:
        paths = StudyPaths(study)
        self.images: list[np.ndarray] = []
        sources, rows, patients = [], [], []
        self.reports: list[Report] = []
        self.without_report = 0
        for number, name in enumerate(study.pretrain.datasets):
            store = open_store(paths.data(name))
            self.images.append(store.images)
            chosen = store.records.iloc[part_rows(read_splits(paths.splits(name)), part)]
            for row, text, patient in zip(chosen["row"], chosen["report"], chosen["patient_id"], strict=True):
                report = parse_report(text)
                if report.empty:
                    self.without_report += 1
                    continue
                sources.append(number)
                rows.append(int(row))
                patients.append(int(hashlib.sha256(patient.encode()).hexdigest()[:15], 16))
                self.reports.append(report)
        self.whole = len(rows)
        kept = np.arange(len(rows)) if share == 100 else _share(patients, share, study.seed)
        self.reports = [self.reports[k] for k in kept]
        self.sources, self.rows = np.array(sources, dtype=np.int64)[kept], np.array(rows, dtype=np.int64)[kept]
        self.patients = torch.tensor(patients, dtype=torch.int64)[kept]
        if not rows and part == "train" and needed:
            raise UserError(
                f"none of the {self.without_report} training rows of {study.pretrain.datasets} has a report",
                where=paths.data(study.pretrain.datasets[0]),
                fix="check reports_root and the FINDINGS/IMPRESSION sections",
            )

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, index: np.ndarray) -> np.ndarray:
        """uint8 [B, S, S] of the given pairs."""
        out = np.empty((len(index), *self.images[0].shape[1:]), dtype=np.uint8)
        for number, images in enumerate(self.images):
            here = np.flatnonzero(self.sources[index] == number)
            out[here] = load(images, self.rows[index[here]])
        return out


def _share(patients: list[int], percent: int, seed: int) -> np.ndarray:
    """Which pairs [n] belong to the first ``percent`` of the patients in an order drawn once per study; at least one patient."""
    codes, who = pd.factorize(np.array(patients, dtype=np.int64))
    place = generator(seed, "pretrain-share").permutation(len(who))
    return np.flatnonzero(place[codes] < max(1, round(percent * len(who) / 100)))


class Batches:
    """Deterministic batches: any step can be made again from the study's seed, which is what exact resumption needs.

    With a share of the pairs there are as many steps as with all, in more epochs.
    """

    def __init__(
        self,
        pairs: Pairs,
        study: Study,
        method: Method,
        knowledge: Knowledge | None,
        seed: int,
        batch_size: int,
        epochs: int,
        augmentation: AugmentSpec | None = None,
    ) -> None:
        self.pairs, self.study, self.method, self.seed = pairs, study, method, seed
        self.augmentation = augmentation
        self.batch_size = min(batch_size, len(pairs))
        self.steps_per_epoch = len(pairs) // self.batch_size
        self.steps = pairs.whole // min(batch_size, pairs.whole) * epochs
        if study.pretrain.steps is not None:
            self.steps = min(self.steps, study.pretrain.steps)
        self.epochs = -(-self.steps // self.steps_per_epoch)
        self.affirmed = lru_cache(maxsize=100_000)(knowledge.affirmed) if knowledge is not None else None

    def train(self, step: int) -> Batch:
        """The batch of optimiser step ``step``, whole: it does not depend on how many processes share it."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = generator(self.study.seed, "pretrain-order", self.seed, epoch).permutation(len(self.pairs))
        index = order[within * self.batch_size : (within + 1) * self.batch_size]
        draw = torch_generator(self.study.seed, "pretrain-augment", self.seed, step, 0)
        images = self._training_films(index, draw)
        return self._batch(index, images, epoch, step)

    def _training_films(self, index: np.ndarray, draw: torch.Generator) -> torch.Tensor:
        """As the recipe says, else by the project's own augmentation, on a random part where the study crops."""
        films, crop = self.pairs.pixels(index), self.study.crop_size
        if self.augmentation is not None:
            return augmented(films, self.augmentation, crop or films.shape[-1], draw)
        return augment(augmented(films, AugmentSpec(), crop, draw) if crop else to_tensor(films), draw)

    def evaluation(self, limit: int) -> list[Batch]:
        """Batches of the first ``limit`` pairs, not augmented, always the same."""
        chosen = np.arange(min(limit, len(self.pairs)))
        full = len(chosen) // self.batch_size * self.batch_size
        parts = np.split(chosen[:full], max(full // self.batch_size, 1)) if full else []
        films = (to_tensor(centre(self.pairs.pixels(index), self.study.crop_size)) for index in parts)
        return [self._batch(index, seen, 0, -1 - n) for n, (index, seen) in enumerate(zip(parts, films, strict=True))]

    def _batch(self, index: np.ndarray, images: torch.Tensor, epoch: int, step: int) -> Batch:
        rng = generator(self.study.seed, "pretrain-text", self.seed, step, 0)
        reports = [self.pairs.reports[i] for i in index]
        texts = [self.method.text_view(report, rng) for report in reports]
        linked = [self.affirmed(text) if self.affirmed else [] for text in texts]
        draw = torch_generator(self.study.seed, "pretrain-method", self.seed, step, 0)
        patients = self.pairs.patients[index]
        return Batch.of(
            self.method, reports, texts, linked, images, patients, draw, epoch=epoch, step=step, epochs=self.epochs
        )
