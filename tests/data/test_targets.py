"""Boxes and masks that would train wrongly: dropped, cut or left unlabelled, and counted."""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlip.data import targets
from mlip.data.build import build_store
from mlip.data.catalogue import readers
from mlip.data.formats.rle import encode
from mlip.data.records import Box, ReaderOptions, Record
from mlip.data.store import Store, open_store
from mlip.data.targets import examine, judge_tables, sound_boxes, words
from mlip.errors import UserError
from mlip.paths import StudyPaths
from tests.data.layouts import (
    film,
    study_of,
    write_covid,
    write_dicom,
    write_image,
    write_object_cxr,
    write_rsna,
    write_siim,
)

SIZE = (40, 48)
GOOD = Box(4, 6, 10, 20, "a")
CASES: dict[str, tuple[Box, str, Box | None]] = {
    "nan": (Box(math.nan, 6, 10, 20, "a"), targets.NOT_FINITE, None),
    "infinite": (Box(4, 6, math.inf, 20, "a"), targets.NOT_FINITE, None),
    "reversed": (Box(14, 26, -10, 20, "a"), targets.REVERSED, None),
    "click": (Box(20, 20, 0, 0, "a"), targets.NO_AREA, None),
    "line": (Box(5, 40, 25, 0, "a"), targets.NO_AREA, None),
    "sliver": (Box(5, 40, 1e-14, 5, "a"), targets.NO_AREA, None),
    "right of the film": (Box(50, 6, 10, 20, "a"), targets.OUTSIDE, None),
    "above the film": (Box(4, -30, 10, 20, "a"), targets.OUTSIDE, None),
    "touching the edge": (Box(39.5, 6, 10, 20, "a"), targets.OUTSIDE, None),
    "partly outside": (Box(-3, 30, 10, 50, "a"), targets.CUT, Box(0, 30, 7, 18, "a")),
    "twice": (GOOD, targets.REPEATED, None),
    "of another category": (Box(4, 6, 10, 20, "b"), "", Box(4, 6, 10, 20, "b")),
    "rounding": (Box(-1e-9, 6, 40 + 2e-9, 42, "a"), "", Box(-1e-9, 6, 40 + 2e-9, 42, "a")),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rule_for_each_kind(case: str) -> None:
    box, kind, left = CASES[case]
    kept, counts = sound_boxes([GOOD, box], SIZE)
    assert kept == ((GOOD,) if left is None else (GOOD, left))
    assert counts == (Counter({kind: 1}) if kind else Counter())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4, st.sampled_from("ab"))))
def test_what_is_kept_has_area_and_lies_on_the_film(values: list[tuple[float, float, float, float, str]]) -> None:
    boxes = [Box(*v) for v in values]
    kept, counts = sound_boxes(boxes, SIZE)
    for box in kept:
        corners = np.array([box.x, box.y, box.x + box.width, box.y + box.height], np.float32)
        assert (corners[2:] - corners[:2] >= 0.99).all()
        assert (corners >= -0.01).all()
        assert (corners[2:] <= np.array(SIZE) + 0.01).all()
    assert len(set(kept)) == len(kept) == len(boxes) - sum(n for kind, n in counts.items() if kind != targets.CUT)
    assert sound_boxes(kept, SIZE) == (kept, Counter())


def annotate(root: Path, rows: dict[int, str]) -> None:
    """Replace annotations of Object-CXR's training table."""
    table = pd.read_csv(root / "train.csv", dtype=str)
    for row, annotation in rows.items():
        table.loc[row, "annotation"] = annotation
    table.to_csv(root / "train.csv", index=False)


def test_the_store_holds_sound_boxes_and_says_what_it_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_object_cxr(tmp_path / "object_cxr")
    annotate(
        tmp_path / "object_cxr",
        {
            0: "0 20 20 20 20",  # a click
            1: "0 4 6 14 26;0 5 40 30 40",  # a box and a line
            2: "0 4 6 14 26;1 14 26 4 6",  # the same corners in another order
            4: "0 30 30 90 90;0 200 200 220 220",
        },
    )
    study = study_of(tmp_path, {"object_cxr": {"split": "official"}}, image_size=48)
    with caplog.at_level(logging.WARNING, logger="mlip"):
        build_store("object_cxr", study, 1)
    store = open_store(StudyPaths(study).data("object_cxr"))
    expected = {
        targets.NO_AREA: 2,
        targets.OUTSIDE: 1,
        targets.REPEATED: 1,
        targets.CUT: 1,
        targets.NO_BOX_LEFT: 1,
    }
    assert store.manifest["findings"] == expected
    assert all(f"{kind} ({count})" in caplog.text for kind, count in expected.items())
    assert store.records.boxes[0] == []
    assert store.records.boxes_known.tolist() == [False] + [True] * 11
    assert store.label("Foreign object")[0] == 1  # somebody did see an object
    assert store.records.boxes[2] == store.records.boxes[1] == [[4 + 4, 6, 10, 20]]  # padded by 4
    assert store.records.boxes[4] == [[30 + 4, 30, 10, 18]]
    reader = readers()["object_cxr"]
    records = reader.records(tmp_path / "object_cxr", ReaderOptions())
    judged = judge_tables(records)
    assert words(judged).startswith("boxes dropped: listed twice (1), boxes dropped: without area (2), ")
    assert judged == {targets.NO_AREA: 2, targets.REPEATED: 1, targets.NO_BOX_LEFT: 1}
    looked_at = sum((examine(reader, r) for r in records), Counter())
    assert judged + looked_at == expected


def test_a_film_without_a_sound_box_is_not_a_true_negative(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna")
    path = tmp_path / "rsna" / "stage_2_train_labels.csv"
    table = pd.read_csv(path, dtype=str).sort_values("patientId", ignore_index=True)
    boxed = table.index[table.patientId == "patient-0003"]
    table.loc[boxed, ["x", "y"]] = "500", "500"  # outside
    table.loc[table.index[table.patientId == "patient-0009"], ["x", "y", "width", "height"]] = None  # positive, no box
    table.to_csv(path, index=False)
    study = study_of(tmp_path, {"rsna": {}})
    build_store("rsna", study, 1)
    store = open_store(StudyPaths(study).data("rsna"))
    unlabelled = [3, 9]
    assert np.flatnonzero(~store.records.boxes_known).tolist() == unlabelled
    assert np.flatnonzero(store.records.mask_row < 0).tolist() == unlabelled
    assert store.label("Pneumonia")[unlabelled].tolist() == [1, 1]
    assert store.masks is not None
    assert len(store.masks) == 10
    for row, (mask_row, boxes) in enumerate(zip(store.records.mask_row, store.records.boxes, strict=True)):
        if row not in unlabelled:
            assert store.masks[mask_row].any() == bool(boxes)
    assert store.manifest["findings"][targets.NO_BOX_LEFT] == 1
    assert store.manifest["findings"][targets.NO_MASK_PIXEL] == 2


def covid(root: Path, change: dict[int, np.ndarray], size: int = 32) -> Store:
    """The store of a collection with these masks instead of its own."""
    write_covid(root / "covid_chestxray")
    for i, mask in change.items():
        write_image(root / "covid_chestxray" / "masks" / f"film-{i}.png", mask)
    study = study_of(root, {"covid_chestxray": {}}, image_size=size)
    build_store("covid_chestxray", study, 1)
    return open_store(StudyPaths(study).data("covid_chestxray"))


def test_masks_without_a_pixel_are_unlabelled(tmp_path: Path) -> None:
    dot = np.zeros((60, 50), np.uint8)
    dot[7, 7] = 255
    binary = np.zeros((60, 50), np.uint8)
    binary[10:50, 5:20] = 1
    store = covid(tmp_path, {0: np.zeros((60, 50), np.uint8), 2: dot, 4: binary})
    assert np.flatnonzero(store.records.mask_row >= 0).tolist() == [4, 6]
    assert store.masks is not None
    assert [bool(m.any()) for m in store.masks] == [True, True]
    assert store.manifest["findings"] == {targets.NO_MASK_PIXEL: 1, targets.VANISHED: 1}
    reader = readers()["covid_chestxray"]
    records = reader.records(tmp_path / "covid_chestxray", reader.Options())
    assert examine(reader, records[0]) == {targets.NO_MASK_PIXEL: 1}
    assert examine(reader, records[1]) == Counter()


def test_all_masks_without_a_pixel_make_a_store_without_masks(tmp_path: Path) -> None:
    blank = np.zeros((60, 50), np.uint8)
    store = covid(tmp_path, dict.fromkeys((0, 2, 4, 6), blank))
    assert store.masks is None
    assert (store.records.mask_row == -1).all()


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (np.full((50, 60), 255, np.uint8), "the mask is 60 x 50, the film 50 x 60 pixels"),
        (np.full((60, 50), 90, np.uint8), "is no mask: it holds 1 grey levels"),
    ],
    ids=["size", "values"],
)
def test_other_masks_are_one_line_for_the_doctor_and_the_build(mask: np.ndarray, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"lists 1 of 7 images .*{problem}"):
        covid(tmp_path, {2: mask})
    reader = readers()["covid_chestxray"]
    record = reader.records(tmp_path / "covid_chestxray", reader.Options())[2]
    with pytest.raises(UserError, match=rf"film-2\.\w+: {problem}.* Fix: "):
        examine(reader, record)


def test_codes_of_another_film_are_one_line(tmp_path: Path) -> None:
    write_siim(tmp_path / "siim")
    path = tmp_path / "siim" / "train-rle.csv"
    big = np.zeros((96, 96), np.uint8)
    big[60:90, 60:90] = 1
    lines = path.read_text(encoding="utf-8").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("1.2.276.4,"))
    lines[at] = f"1.2.276.4, {encode(big)}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"lists 1 of 12 images .* a run ends at pixel \d+ of an image of 48 x 48"):
        build_store("siim", study_of(tmp_path, {"siim": {}}), 1)
    reader = readers()["siim"]
    record = next(r for r in reader.records(tmp_path / "siim", reader.Options()) if r.image_id == "1.2.276.4")
    with pytest.raises(UserError, match=r"EncodedPixels: a run ends at pixel"):
        examine(reader, record)


def test_the_doctor_sees_flat_films(tmp_path: Path) -> None:
    write_dicom(tmp_path / "x.dcm", np.full((48, 40), 3, np.uint8))
    reader, record = readers()["siim"], Record(tmp_path / "x.dcm", "x", "x", "x", mask=())
    assert examine(reader, record) == {targets.FLAT: 1}
    write_dicom(tmp_path / "x.dcm", film(1))
    assert examine(reader, record) == Counter()
