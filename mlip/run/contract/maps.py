"""Checks of the maps that say where a method looks."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.run.contract.subject import Subject, same
from mlip.seeding import seed_everything

PROMPT = "There is a pleural effusion."


def check_maps_are_there(subject: Subject) -> None:
    """A method that lists ``maps`` gives at least one map while all its parts are on."""
    if not _maps(subject):
        raise subject.refusal(
            "maps", "lists `maps` among its capabilities but maps() gives {}", "give one, or unlist it"
        )


def check_maps_have_their_shapes(subject: Subject) -> None:
    """Each map is [B, h, w] in floating point, one per image."""
    for name, values in _maps(subject).items():
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        if not isinstance(values, Tensor) or values.ndim != 3 or len(values) != len(subject.images):
            raise subject.refusal("maps", f"the map {name!r} is {shape} for 8 images", "return [B, h, w]")
        if not values.is_floating_point():
            raise subject.refusal("maps", f"the map {name!r} is {values.dtype}", "return floating point numbers")


def check_maps_are_finite(subject: Subject) -> None:
    """No map holds NaN or infinity."""
    for name, values in _maps(subject).items():
        if not bool(torch.isfinite(values).all()):
            raise subject.refusal("maps", f"the map {name!r} holds NaN or infinity", "look for a division by zero")


def check_maps_repeat(subject: Subject) -> None:
    """``maps`` gives the same maps twice, whatever the global generators hold."""
    one, again = (_maps(subject, seed) for seed in (0, 1))
    if moved := [name for name in one if name not in again or not same(one[name], again[name])]:
        raise subject.refusal(
            "maps", f"the map {moved[0]!r} is random in eval mode", "switch randomness off where self.training is False"
        )


def check_maps_are_listed(subject: Subject) -> None:
    """A method that gives maps lists ``maps`` among its capabilities, or no study would draw them."""
    if _maps(subject):
        raise subject.refusal("maps", "maps() gives maps that method.yaml does not list", "add `maps` to capabilities")


def _maps(subject: Subject, seed: int = 0) -> dict[str, Tensor]:
    method = subject.ready
    seed_everything("contract-global", seed)
    with torch.no_grad():
        return method.maps(subject.images, PROMPT)
