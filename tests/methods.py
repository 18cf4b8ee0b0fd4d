"""Our methods with toy encoders, built from their real ``method.yaml``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mlip.contract import Method
from mlip.manifest import read_manifest
from mlip.methods import Entry, method_folders
from mlip.run.contract.world import tiny_batch, tiny_method
from mlip.seeding import torch_generator


def entry(
    name: str, encoder: str = "cnn", components: dict[str, bool] | None = None, params: dict[str, Any] | None = None
) -> Entry:
    """The row of the method ``name`` at its ``smoke`` recipe, with the given overrides."""
    folder = method_folders()[name]
    manifest = read_manifest(folder)
    values = {key: spec.value for key, spec in manifest.parameters.items()}
    if manifest.trained:
        values |= manifest.recipes["smoke"].params
    switches = {key: spec.default for key, spec in manifest.components.items()} | (components or {})
    return Entry(name, manifest, folder, encoder, switches, values | (params or {}), manifest.title)  # type: ignore[arg-type]


def build(name: str, encoder: str = "cnn", **overrides: dict[str, Any]) -> Method:
    """The method of :func:`entry` with toy encoders (image 48 px, BERT of two layers and width 32)."""
    return tiny_method(entry(name, encoder, **overrides))


def total(method: Method, terms: dict[str, Tensor]) -> Tensor:
    """The training loss, as ``mlip.pretraining.loop`` forms it."""
    weights = method.loss_weights()
    return torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()


def learn(method: Method, steps: int) -> list[dict[str, float]]:
    """Train on one batch, with new random choices in each step; returns the terms of every step."""
    optimizer, history = torch.optim.AdamW(method.train().parameters(), 3e-3), []
    for step in range(steps):
        batch = tiny_batch(method)
        batch.generator = torch_generator("steps", step)
        terms = method.losses(batch)
        optimizer.zero_grad()
        total(method, terms).backward()
        optimizer.step()
        history.append({name: term.item() for name, term in terms.items()})
    return history
