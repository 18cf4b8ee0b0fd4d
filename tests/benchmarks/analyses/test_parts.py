"""The page on parts tells a term that uses an input from one that does not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.analyses import parts
from benchmarks.analyses.parts import ENTITIES, FILM, KNOWLEDGE, Rise, agreement
from mlip.losses.contrastive import info_nce
from mlip.run.contract.world import tiny_batch
from tests.methods import build


def test_rise_holds_batches_and_seeds() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):  # effect 1, batches with deviation .5, seeds with .5
        values = 1 + 0.5 * rng.normal(size=(1, 5)) + 0.5 * rng.normal(size=(3, 1))
        rise = Rise.of(values, 0.95)
        covered += rise.low <= 1 <= rise.high
    assert covered / 400 > 0.93
    assert Rise.of(np.array([[0.0, 0.0], [0.0, 0.0]]), 0.95).inert
    assert Rise.of(np.array([[1.0, -1.0, 0.5, -0.5]]), 0.95).inert
    assert not Rise.of(np.array([[1.0, 1.1, 0.9, 1.0]]), 0.95).inert


def test_a_term_that_does_not_look_is_inert(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the real method, untrained: `blind` sees neither film nor entities, `seeing` sees the film, `reading` the entities."""
    method = build("cvpr24", "cnn").eval()

    def losses(batch):  # type: ignore[no-untyped-def]
        v = functional.normalize(method.head_v(method.image_encoder(batch.images).pooled), dim=-1)
        anchor = functional.normalize(torch.arange(len(v) * 4.0).view(-1, 4).sin(), dim=-1)
        table = method.entities.table[batch.entities.clamp_min(0)].mean(dim=1)
        return {
            "blind": anchor.sum(),
            "seeing": info_nce(v, own, 0.1),
            "reading": info_nce(table, own_table, 0.1),
        }

    batch = tiny_batch(method)
    with torch.no_grad():
        own = functional.normalize(method.head_v(method.image_encoder(batch.images).pooled), dim=-1)
        own_table = method.entities.table[batch.entities.clamp_min(0)].mean(dim=1).clone()
    monkeypatch.setattr(method, "losses", losses)
    monkeypatch.setattr(parts, "_batch", lambda *_: tiny_batch(method))
    plan = SimpleNamespace(study=SimpleNamespace(seed=0))
    entry = SimpleNamespace(reads_knowledge=True)
    found = parts.effects(plan, entry, method, None, None, 8)  # type: ignore[arg-type]
    rises = {key: values.mean() for key, values in found.items()}
    assert all(rises["blind", what] == 0 for what in (FILM, ENTITIES, KNOWLEDGE))
    assert rises["seeing", FILM] > 0.1 and rises["seeing", ENTITIES] == rises["seeing", KNOWLEDGE] == 0
    assert rises["reading", FILM] == 0 and rises["reading", ENTITIES] > 0.1 and rises["reading", KNOWLEDGE] > 0.1
    torch.testing.assert_close(method.entities.table[batch.entities.clamp_min(0)].mean(dim=1), own_table)  # put back


def test_trainings_that_learn_the_same_are_told_from_random_order() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=16)
    alike = agreement(shared + 0.7 * rng.normal(size=(3, 16)), 0.95, np.random.default_rng(1))
    assert alike.value > alike.high and alike.cells()[-1] == "agree"
    told = [agreement(rng.normal(size=(3, 16)), 0.95, np.random.default_rng(k)) for k in range(60)]
    assert np.mean([a.value > a.high for a in told]) < 0.12, "noise is told from random order as often as it should"
    assert agreement(np.ones((3, 16)), 0.95, rng).cells()[-1] != "agree"


def test_isbi24_says_what_its_trainings_should_agree_on() -> None:
    method = build("isbi24", "vit")
    with torch.no_grad():
        method.integrity.phi.copy_(torch.arange(len(method.integrity.phi)))
    (phi,) = method.learnt().values()
    assert phi.tolist() == list(range(len(phi)))
    assert build("isbi24", "vit", components={"integrity": False}).learnt() == {}
