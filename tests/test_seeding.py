"""Seeds are named."""

from __future__ import annotations

import numpy as np

from mlip import seeding


def test_seeds_depend_on_names_only() -> None:
    assert seeding.seed_for("a", 1) == seeding.seed_for("a", 1) != seeding.seed_for("a", 2)
    assert seeding.seed_for("ab", "c") != seeding.seed_for("a", "bc")
    assert np.array_equal(seeding.generator("x").random(3), seeding.generator("x").random(3))
