"""Two warped chests at 64 px, built once for all tests of the twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlip.study import TwinConfig
from mlip.twin import anatomy

SIZE = 64


@pytest.fixture(scope="session")
def chest_volume() -> tuple[np.ndarray, np.ndarray]:
    """The cleaned CT: attenuation and labels."""
    return anatomy.load_chest()


@pytest.fixture(scope="session")
def build(chest_volume):
    """``build(path, count, workers)`` without reading the CT again."""

    def run(path: Path, count: int, workers: int) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(anatomy, "load_chest", lambda: chest_volume)
            anatomy.build_anatomies(path, TwinConfig(anatomies=count, size=SIZE, datasets={}), seed=5, workers=workers)
        return path

    return run


@pytest.fixture(scope="session")
def anatomy_path(build, tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("twin") / "anatomy.npz", 2, 1)


@pytest.fixture(scope="session")
def anatomies(anatomy_path) -> anatomy.Anatomies:
    return anatomy.read_anatomies(anatomy_path)
