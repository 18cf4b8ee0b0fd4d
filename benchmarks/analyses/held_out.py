"""Image-report pairs that no training saw, for the analyses that look into trained rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mlip.data.pixels import centre
from mlip.data.splits import part_rows, read_splits
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.seeding import generator, torch_generator
from mlip.study import Study
from mlip.text.reports import Report, parse_report

if TYPE_CHECKING:
    from mlip.contract import Batch, Method
    from mlip.knowledge.entities import Knowledge

NAME = "false_negatives"  # of the generators: the analysis that these pairs were first drawn for
NO_FINDING = {"No Finding", "Support Devices"}  # labels that say nothing of a disease
LIMIT = 256  # held-out pairs; every measure looks at their square


@dataclass
class HeldOut:
    """Pairs that no training saw: one film and report per study of the validation and test parts."""

    images: np.ndarray  # uint8 [N, S, S], as encoders see them
    reports: list[Report]
    findings: list[frozenset[str]]
    patients: np.ndarray  # int64 [N], equal numbers are the same patient


def held_out(study: Study) -> HeldOut:
    """At most :data:`LIMIT` pairs over the study's pre-training data sets, drawn with a fixed seed."""
    paths, found = StudyPaths(study), []
    for name in study.pretrain.datasets:
        store, splits = open_store(paths.data(name)), read_splits(paths.splits(name))
        rows = np.sort(np.concatenate([part_rows(splits, part) for part in ("val", "test")]))
        labels = [label for label in store.labels if label not in NO_FINDING]
        for row in rows[~store.records["study_id"].iloc[rows].duplicated().to_numpy()]:
            record = store.records.iloc[row]
            report = parse_report(record["report"])
            if not report.empty:
                seen = frozenset(label for label in labels if record[f"label.{label}"] == 1)
                found.append((store.images, row, report, seen, f"{name}/{record['patient_id']}"))
    if len(found) > LIMIT:
        rng = generator(study.seed, NAME, "pairs")
        found = [found[i] for i in np.sort(rng.choice(len(found), LIMIT, replace=False))]
    if not found:
        raise UserError(
            "no held-out film has a report", where=paths.splits(study.pretrain.datasets[0]), fix="see splits"
        )
    patients = pd.factorize(np.array([patient for *_, patient in found]))[0]
    images = np.stack([centre(store[row], study.crop_size) for store, row, *_ in found])
    return HeldOut(images, [r for *_, r, _, _ in found], [f for *_, f, _ in found], patients)


def pair_batch(
    study: Study, method: Method, knowledge: Knowledge | None, pairs: HeldOut, index: np.ndarray, number: int
) -> Batch:
    """The pairs at ``index`` as a training batch, whole reports, films not augmented."""
    import torch

    from mlip.contract import Batch
    from mlip.data.pixels import to_tensor

    reports = [pairs.reports[i] for i in index]
    texts = [report.text for report in reports]
    linked = [knowledge.affirmed(text) if knowledge else [] for text in texts]
    images, patients = to_tensor(pairs.images[index]), torch.from_numpy(pairs.patients[index])
    draw = torch_generator(study.seed, NAME, "method", number)
    return Batch.of(method, reports, texts, linked, images, patients, draw, step=number).to(method.device)
