"""Golden values of every reader: a library upgrade that changes pixels, or a reader that changes labels, is seen here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlip.data.catalogue import readers
from tests.data.golden import EXPECTED, GREY, coarse, summary, write_fixtures
from tests.ours import our_readers

NAMES = sorted(our_readers())
PIXELS = ("means", "deviations", "coarse")
DRAWN = ("box_area", "mask_pixels")  # outlines that the twin computes in floating point


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    write_fixtures(folder)
    return folder


@pytest.fixture(scope="module")
def expected() -> dict[str, dict]:
    return json.loads(EXPECTED.read_text(encoding="utf-8"))


def test_every_reader_has_golden_values(expected: dict[str, dict]) -> None:
    assert sorted(expected) == NAMES, "run `python -m tests.data.golden` (docs/architecture.md, adding a reader)"


@pytest.mark.parametrize("name", NAMES)
def test_counts_labels_and_pixels_are_the_expected_ones(name: str, fixtures: Path, expected: dict[str, dict]) -> None:
    found, golden = json.loads(json.dumps(summary(name, fixtures / name))), expected[name]
    exact = [k for k in golden if k not in (*PIXELS, *DRAWN)]
    assert {k: found[k] for k in exact} == {k: golden[k] for k in exact}
    for key in DRAWN:
        assert found[key] == pytest.approx(golden[key], rel=0.01), key
    for key in PIXELS:
        np.testing.assert_allclose(found[key], golden[key], atol=GREY, err_msg=f"{name}: {key}")


@pytest.mark.parametrize("change", ["inverted", "brighter", "steeper", "shifted", "mirrored"])
def test_changed_pixels_are_seen(change: str, fixtures: Path, expected: dict[str, dict]) -> None:
    """The tolerance is narrow enough: each of these, on each film, breaks the comparison above."""
    reader = readers()["rsna"]
    golden = expected["rsna"]
    for at, record in enumerate(reader.records(fixtures / "rsna", reader.Options())[:3]):
        film = reader.load_image(record).astype(float)
        film = {
            "inverted": 255 - film,
            "brighter": film + 2,
            "steeper": (film - film.mean()) * 1.05 + film.mean(),
            "shifted": np.roll(film, 1, axis=1),
            "mirrored": film[:, ::-1],
        }[change]
        moved = [abs(film.mean() - golden["means"][at]), abs(film.std() - golden["deviations"][at])]
        assert max(*moved, *np.abs(coarse(film) - golden["coarse"][at])) > GREY
