"""Agreement with the numbers that the methods' official public code gives (../shared/parity, float64)."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from tests.parity import adapters

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "parity"
CASES = sorted(FOLDER.glob("*.npz"))
FAMILIES = ("gloria_local", "gloria_global", "convirt", "mgca", "ipot", "dice_mgca2022")


def _run(case: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(what we compute, what the official code computed) for one case; each input goes in under its own name."""
    family = re.sub(r"_\d+$", "", case.stem)
    options = {}
    if family.startswith("mgca_"):
        family, options["encoder"] = family.split("_")
    adapter = getattr(adapters, family)
    arrays = dict(np.load(case))
    inputs = {k: arrays.pop(k) for k in inspect.signature(adapter).parameters if k in arrays}
    return adapter(**inputs, **options), arrays


@pytest.mark.skipif(not CASES, reason=f"{FOLDER} is absent: reference cases are kept outside the repository")
@pytest.mark.parametrize("case", CASES, ids=lambda p: p.stem)
def test_agrees_with_official_code(case: Path) -> None:
    ours, official = _run(case)
    assert set(ours) == set(official)
    for name, expected in official.items():
        assert ours[name].shape == expected.shape, name
        # The official Sinkhorn returns float32, hence the wider tolerance of what depends on it.
        tolerance = 1e-4 if "cpa" in name else 1e-6
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours[name], expected, rtol=tolerance, atol=tolerance * scale * 1e-2, err_msg=name)


@pytest.mark.skipif(not CASES, reason=f"{FOLDER} is absent: reference cases are kept outside the repository")
def test_every_family_has_cases() -> None:
    found = {re.sub(r"(_resnet|_vit)?_\d+$", "", c.stem) for c in CASES}
    assert found == set(FAMILIES)
