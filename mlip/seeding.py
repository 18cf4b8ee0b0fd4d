"""The one place from which randomness is seeded.

Every random choice of the project asks for a generator by name: the same names give the same numbers on the same
machine, and a new consumer of randomness does not shift the numbers of the others.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_for(*names: object) -> int:
    """A seed in [0, 2**31) that depends on the names (study seed, stage, method, draw, ...) only."""
    digest = hashlib.sha256("\x1f".join(str(n) for n in names).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def generator(*names: object) -> np.random.Generator:
    """A numpy generator named by its purpose, e.g. ``generator(study.seed, "splits", "rsna", draw)``."""
    return np.random.default_rng(seed_for(*names))


def torch_generator(*names: object) -> torch.Generator:
    """A CPU torch generator named by its purpose."""
    import torch

    return torch.Generator().manual_seed(seed_for(*names))


def seed_everything(*names: object) -> int:
    """Seed python, numpy and torch for libraries that draw from the global state; returns the seed used."""
    import torch

    seed = seed_for(*names)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (Detectron2 and SMP draw from the global state)
    torch.manual_seed(seed)
    return seed
