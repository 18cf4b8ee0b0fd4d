"""The seed decides a training: the same one gives the same loss curve to the last bit, another one another."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mlip.fingerprints import Fingerprint
from mlip.methods import Entry, entries
from mlip.paths import StudyPaths
from mlip.pretraining.loop import pretrain
from mlip.study import Study
from tests.pretraining.conftest import Trainer


def _curve(study: Study, entry: Entry, seed: int) -> str:
    path = StudyPaths(study).pretrain(entry.name, seed) / "metrics.jsonl"
    path.unlink(missing_ok=True)
    pretrain(study, entry, seed, Fingerprint("", ""))
    return path.read_text(encoding="utf-8")


# Between them: noise, negatives and swapped texts drawn in the loss; masks; dropout of BERT; the order and the views.
@pytest.mark.parametrize("method", ["cvpr24", "isbi24"])
def test_the_seed_decides_the_loss_curve(rows_in: Trainer, method: str) -> None:
    study = rows_in(epochs=1, batch_size=16)
    entry = entries(study)[0][method]
    first, again, other = (_curve(study, entry, seed) for seed in (0, 0, 1))
    assert first == again
    assert _curve(study, replace(entry, seed=1), 0) == other  # a variant's seed is added to the study's
    losses = [[json.loads(line)["loss"] for line in curve.splitlines()] for curve in (first, other)]
    assert len(losses[0]) == len(losses[1]) > 3
    assert all(a != b for a, b in zip(*losses, strict=True))
