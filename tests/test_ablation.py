"""config/ablation.yaml covers every switch of the reconstructions, and each of its rows builds, trains a step and lacks what it says."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from mlip.manifest import read_manifest
from mlip.methods import Entry, entries
from mlip.run.contract.world import tiny_batch, tiny_method
from mlip.seeding import seed_everything
from mlip.study import load_study
from tests.conftest import ROOT
from tests.ours import our_methods

STUDY = load_study(ROOT / "config" / "ablation.yaml")
ROWS = {name: entry for name, entry in entries(STUDY)[0].items() if entry.manifest.trained}
ALSO = {"divergence": {"augmented"}}  # terms that go with a component and have another name


def _off(entry: Entry) -> set[str]:
    return {name for name, spec in entry.manifest.components.items() if spec.default and not entry.components[name]}


def test_every_switch_of_the_reconstructions_has_a_row() -> None:
    manifests = {name: read_manifest(folder) for name, folder in our_methods().items()}
    wanted = {
        (name, switch)
        for name, manifest in manifests.items()
        if manifest.status == "reconstruction"
        for switch, spec in manifest.components.items()
        if spec.default
    }
    assert {name for name, _ in wanted} == {"cvpr24", "isbi24"}
    # A switch is covered where it is off alone, or with those only that cannot stand without it (see the models).
    covered = {(e.manifest.id, frozenset(_off(e))) for e in ROWS.values()}
    for name, switch in wanted:
        alone = {off for folder, off in covered if folder == name and switch in off and len(off) <= 2}
        assert alone, f"no row of {name} without {switch}"
    assert {("cvpr24", frozenset({switch})) for name, switch in wanted if name == "cvpr24"} <= covered
    for name in {name for name, _ in wanted}:
        assert name in ROWS and not _off(ROWS[name])


def test_the_controls_stand_beside_the_rows() -> None:
    kinds = {e.encoder for e in entries(STUDY)[0].values() if e.manifest.status == "control"}
    assert kinds == {e.encoder for e in ROWS.values()}


def _steps(entry: Entry, count: int = 2) -> list[dict[str, Tensor]]:
    """Loss terms of ``count`` optimiser steps; the first is before any update."""
    method = tiny_method(entry).train()
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-3)
    history = []
    for step in range(count):
        seed_everything("ablation", step)
        batch = tiny_batch(method, step)
        terms, weights = method.losses(batch), method.loss_weights()
        optimizer.zero_grad()
        torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum().backward()
        method.on_backward(batch)
        optimizer.step()
        history.append({name: term.detach() for name, term in terms.items()})
    return history


@cache
def _full(name: str) -> dict[str, Tensor]:
    return _steps(ROWS[name], 1)[0]


@pytest.mark.parametrize("name", ROWS)
def test_row_trains_without_what_is_off(name: str) -> None:
    entry = ROWS[name]
    history = _steps(entry)
    assert all(torch.isfinite(term) for terms in history for term in terms.values())
    assert set(history[0]) == set(history[1])
    off, full = _off(entry), _full(entry.manifest.id)
    gone = set().union(*({switch} | ALSO.get(switch, set()) for switch in off)) if off else set()
    assert set(history[0]) == set(full) - gone
    if off and not gone & set(full):  # a switch without a term of its own changes one
        assert any(not torch.equal(term, full[key]) for key, term in history[0].items())
