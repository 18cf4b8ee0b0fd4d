"""The warped chests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlip.errors import UserError
from mlip.twin.anatomy import LOBES, POINTS, THICKNESS, attenuation, read_anatomies, remove_mass
from mlip.twin.chest import Chest
from tests.conftest import ROOT

RIB = 92


def test_a_tumour_is_replaced_and_nothing_else_changes(rng):
    hu = rng.normal(-850, 20, (80, 80, 60)).astype(np.float32)
    labels = np.zeros(hu.shape, np.uint8)
    labels[5:75, 5:75, 2:58] = 11
    z, y, x = np.ogrid[:80, :80, :60]
    tumour = (z - 40) ** 2 + (y - 40) ** 2 + (2 * (x - 42)) ** 2 < 11**2
    hu[tumour] = 40
    hu[0:3] = 60  # solid, but outside the lobe
    cleaned = remove_mass(hu, labels)
    assert cleaned[tumour].max() < -700
    far = np.abs(x - 42) + np.zeros(hu.shape) > 20
    assert np.array_equal(cleaned[far], hu[far])
    assert np.array_equal(cleaned[0:3], hu[0:3])


def test_the_real_tumour_is_gone(chest_volume):
    volume, labels = chest_volume
    # Centre of the CT's tumour at half resolution; lung is about 0.15 of water, the tumour was above 1.
    spot = volume[152:165, 33:39, 88:92]
    assert (labels[152:165, 33:39, 88:92] == 11).mean() > 0.9
    assert spot.mean() < 0.4


def test_contrast_medium_counts_as_soft_tissue_but_bone_stays_dense():
    hu = np.full((9, 9, 9), 900, np.float32)
    labels = np.zeros(hu.shape, np.uint8)
    labels[6:] = RIB
    density = attenuation(hu, labels)
    assert density[:5].max() == pytest.approx(1.07)
    assert density[7:].min() > 2


def test_maps_look_like_a_chest(anatomies):
    assert anatomies.count == 2
    assert anatomies.size == 64
    for k in range(2):
        chest = Chest(anatomies, k)
        assert chest.organs.min() >= 0
        assert 150 < chest.organs.sum(0).max() < 500  # mm of water through the spine or the abdomen
        xs = {lobe: np.average(chest.grid[0], weights=chest.path(lobe)) for lobe in LOBES}
        assert max(v for n, v in xs.items() if n.startswith("right")) < min(
            v for n, v in xs.items() if n.startswith("left")
        )
        ys = {lobe: np.average(chest.grid[1], weights=chest.path(lobe)) for lobe in LOBES}
        assert ys["right upper lobe"] < ys["right middle lobe"]
        assert ys["left upper lobe"] < ys["left lower lobe"]
        assert np.average(chest.grid[0], weights=chest.path("heart")) > chest.point("cava_end")[0]
        assert chest.point("trachea_top")[1] < chest.point("carina")[1] < chest.point("stomach")[1]
        assert chest.point("clavicle_right")[0] < chest.point("clavicle_left")[0]
    assert anatomies.points.shape == (2, len(POINTS), 2)
    assert anatomies.thickness.shape[1] == len(THICKNESS)


def test_chest_k_depends_neither_on_the_count_nor_on_the_workers(build, anatomies, tmp_path):
    one = read_anatomies(build(tmp_path / "one.npz", 1, 1))
    two = read_anatomies(build(tmp_path / "two.npz", 2, 2))
    assert np.array_equal(one.organs[0], anatomies.organs[0])
    assert np.array_equal(two.organs, anatomies.organs)
    assert np.array_equal(two.points, anatomies.points)
    assert not np.array_equal(anatomies.organs[0], anatomies.organs[1])


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "anatomy.npz"
    with pytest.raises(UserError, match=r"anatomy\.npz"):
        read_anatomies(path)
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match="delete it"):
        read_anatomies(path)


def test_films_are_taken_where_opencv_has_started_its_threads(anatomy_path: Path, tmp_path: Path) -> None:
    """Forked workers once waited for ever for the threads that OpenCV had started in their parent."""
    program = (
        "import sys, time, cv2, numpy as np\n"
        "from pathlib import Path\n"
        "from mlip.twin.writers import rsna\n"
        "cv2.setNumThreads(2)\n"
        "cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (0, 0), 5)\n"
        "time.sleep(1)  # until they sleep\n"
        "rsna.write(Path(sys.argv[2]), Path(sys.argv[1]), 70, 'portable', 64, 0, 2)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(anatomy_path), str(tmp_path / "raw")], check=True, cwd=ROOT, timeout=100
    )
