"""The parts of every method on a checkpoint that a real training made: a term gets worse when its input is replaced.

The training learns a hundred pairs by heart, so that this asks whether a part CAN use what it claims to use. Whether it does so on
new patients within the twin's budget is on ``results/twin/parts.md``, with intervals over three trainings. Image-text matching, text
swapping, the divergence encoder (cvpr24), the reconstruction (isbi24) and MGCA's cross-attention alignment are not asked for
here: they do not get so far in 240 steps either, and the methods' READMEs say that they are inert.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.analyses import parts
from benchmarks.analyses.parts import ENTITIES, FILM, KNOWLEDGE, Rise
from mlip.fingerprints import Fingerprint
from mlip.methods import entries
from mlip.paths import StudyPaths
from mlip.pretraining.loop import _Training
from mlip.pretraining.processes import ALONE
from mlip.study import MethodsConfig
from tests.pretraining.conftest import Trainer

USES = {
    "cvpr24": {"global": {FILM}, "augmented": {FILM}, "local": {FILM, ENTITIES, KNOWLEDGE}, "category": {KNOWLEDGE}},
    "isbi24": {"contrast": {FILM}, "matching": {FILM}},
    "convirt": {"contrast": {FILM}},
    "gloria": {"global": {FILM}, "local": {FILM}},
    "mgca": {"ita": {FILM}, "cpa": {FILM}},
}
CANNOT = {  # these do not see what is replaced: nothing may move, not by a bit
    "cvpr24": {("global", KNOWLEDGE), ("divergence", ENTITIES), ("divergence", KNOWLEDGE), ("text_swap", ENTITIES), ("itm", KNOWLEDGE)},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", USES)
def test_a_term_gets_worse_when_its_input_is_replaced(rows_in: Trainer, name: str) -> None:
    study = rows_in(epochs=40, batch_size=16)
    study = study.model_copy(update={"methods": MethodsConfig(include=[name])})
    entry, folder = entries(study)[0][name], StudyPaths(study).pretrain(name, 0)
    folder.mkdir(parents=True)
    training = _Training(ALONE, torch.device("cpu"), study, entry, 0, folder, Fingerprint("", ""))
    training.run()
    method = training.method.eval()
    plan: Any = SimpleNamespace(study=study)
    found: dict[tuple[str, str], list[float]] = {}
    for number, batch in enumerate(training.batches.evaluation(96)):
        own = parts._terms(plan, method, batch, number)
        for what, changed, context in parts.replacements(entry, method, batch):
            with context():
                for term, value in parts._terms(plan, method, changed, number).items():
                    found.setdefault((term, what), []).append(value - own[term])
    rises = {key: Rise.of(np.array([values]), 0.95) for key, values in found.items()}
    print({key: rise.cells() for key, rise in rises.items()})
    inert = {(term, what) for term, uses in USES[name].items() for what in uses if rises[term, what].inert}
    assert not inert, {key: rises[key].cells() for key in inert}
    assert all(found[key] == [0.0] * len(found[key]) for key in CANNOT.get(name, ()))
