"""Grey values of DICOM files: the rule against pydicom's own functions, and damaged headers."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, config
from pydicom.dataset import FileDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from mlip.data.formats.dicom import dicom_size, read_dicom
from mlip.errors import UserError
from tests.data.layouts import dicom, film, write_dicom

BITS = (8, 10, 12, 14, 15, 16)


@pytest.fixture(autouse=True)
def lenient() -> Iterator[None]:
    """Headers as they are found, not as pydicom would let one write them."""
    before = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.IGNORE
    yield
    config.settings.writing_validation_mode = before


def read(data: FileDataset) -> np.ndarray:
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        data.save_as(file.name, enforce_file_format=True)
        return read_dicom(Path(file.name))


def radiograph(pixels: np.ndarray, bits: int, signed: bool = False, allocated: int = 0, **header: Any) -> FileDataset:
    """A file of these stored values."""
    data = dicom(pixels, bits=bits)
    data.BitsAllocated = allocated or (8 if bits <= 8 else 16)
    data.PixelRepresentation = int(signed)
    data.PixelData = pixels.astype(f"<{'i' if signed else 'u'}{data.BitsAllocated // 8}").tobytes()
    for name, value in header.items():
        setattr(data, name, value)
    return data


def lut(table: list[int], first: int, depth: int) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(table) % 2**16, first, depth])
    item.add_new("LUTData", "US", table)
    return Sequence([item])


def ramp(bits: int, signed: bool) -> np.ndarray:
    """All of a film's depth in 16 x 16 stored values, its ends included."""
    values = np.rint(np.linspace(0, 2**bits - 1, 256)).astype(int).reshape(16, 16)
    return values - 2 ** (bits - 1) if signed else values


@st.composite
def headers(draw: st.DrawFn) -> tuple[int, bool, int, dict[str, Any]]:
    """Bits, sign, allocated bits and a valid header."""
    bits, signed = draw(st.sampled_from(BITS)), draw(st.booleans())
    allocated = draw(st.sampled_from([8, 16] if bits == 8 else [16]))
    header: dict[str, Any] = {"PhotometricInterpretation": draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))}
    low = -(2 ** (bits - 1)) if signed else 0
    slope, intercept = 1.0, 0.0
    if draw(st.booleans()):
        slope = draw(st.sampled_from([-10.0, -1.0, -0.25, 0.5, 1.0, 2.0, 3.5]))
        intercept = float(draw(st.integers(-5000, 5000)))
        header |= {"RescaleSlope": slope, "RescaleIntercept": intercept, "RescaleType": "US"}
    ends = sorted((low * slope + intercept, (low + 2**bits - 1) * slope + intercept))
    if draw(st.booleans()):
        count = draw(st.integers(1, 3))
        # In quarters: a decimal string has 16 characters.
        centres = [round(4 * draw(st.floats(ends[0] - 50, ends[1] + 50))) / 4 for _ in range(count)]
        widths = [round(4 * draw(st.floats(1, 2 * (ends[1] - ends[0])))) / 4 for _ in range(count)]
        header |= {"WindowCenter": centres, "WindowWidth": widths}
        header["VOILUTFunction"] = draw(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
    if draw(st.integers(0, 3)) == 0:
        depth = draw(st.sampled_from([8, 10, 12, 16]))
        # Not more entries than pydicom can address in the type of the entries, see _look_up.
        table = draw(st.lists(st.integers(0, 2**depth - 1), min_size=2, max_size=256))
        header["VOILUTSequence"] = lut(table, draw(st.integers(0, 2**15 - 1)), depth)
    return bits, signed, allocated, header


@settings(max_examples=250, deadline=None)
@given(headers())
def test_every_combination_is_what_pydicom_says(case: tuple[int, bool, int, dict[str, Any]]) -> None:
    bits, signed, allocated, header = case
    stored = ramp(bits, signed)
    found = read(radiograph(stored, bits, signed, allocated, **deepcopy(header))).astype(float)
    data = radiograph(stored, bits, signed, allocated, **deepcopy(header))
    values = np.asarray(apply_modality_lut(stored, data), dtype=float)
    if "VOILUTSequence" in header:
        depth = int(header["VOILUTSequence"][0].LUTDescriptor[2])
        voi = np.asarray(apply_voi_lut(clipped_to_lut(values, header), data), dtype=float)
        share = voi / (2.0**depth - 1)
    elif "WindowCenter" in header:
        # pydicom's own range, from values far below and far above any window; a negative slope turns it round.
        voi, bottom, top = (np.asarray(apply_voi_lut(v, data)) for v in (values, values * 0 - 1e9, values * 0 + 1e9))
        share = (voi - bottom) / (top - bottom)
    else:
        low, high = values.min(), values.max()  # the ramp holds the ends of its depth
        share = (values - low) / (high - low)
    expected = np.clip(share * 255, 0, 255)
    if header["PhotometricInterpretation"] == "MONOCHROME1":
        expected = 255 - expected
    assert np.abs(found - expected).max() <= 0.501


def clipped_to_lut(values: np.ndarray, header: dict[str, Any]) -> np.ndarray:
    """Values that pydicom's table look-up takes without overflow; those beyond a table get its ends."""
    entries, first, _ = header["VOILUTSequence"][0].LUTDescriptor
    return np.clip(np.rint(values), first, first + (entries or 2**16) - 1).astype(np.int64)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1725, "WindowWidth": 2551}], ids=["none", "window"])
def test_a_negative_slope_turns_the_film_round(window: dict[str, int]) -> None:
    stored = np.tile(np.arange(48) * 5, (4, 1))
    data = radiograph(stored, 8, RescaleSlope=-10, RescaleIntercept=3000, RescaleType="US", **window)
    assert np.abs(read(data).astype(int) - (255 - stored)).max() <= 1


def test_an_intercept_leaves_eight_bits_alone() -> None:
    stored = np.tile(np.arange(48) * 5, (4, 1))
    for intercept in (-1024, 7, 1_000_000_000):
        np.testing.assert_array_equal(read(radiograph(stored, 8, RescaleSlope=1, RescaleIntercept=intercept)), stored)
    np.testing.assert_array_equal(read(radiograph(stored - 128, 8, signed=True)), stored)


EMPTY: list[dict[str, Any]] = [
    {"WindowCenter": None, "WindowWidth": None},
    {"WindowCenter": "", "WindowWidth": 100},
    {"WindowCenter": 100, "WindowWidth": 0},
    {"WindowCenter": 100, "WindowWidth": -20},
    {"WindowCenter": 100, "WindowWidth": 0.5},
    {"WindowCenter": 100},
    {"RescaleSlope": None, "RescaleIntercept": None},
    {"RescaleSlope": -1},
    {"VOILUTSequence": Sequence([])},
    {"VOILUTSequence": Sequence([Dataset()])},
    {"ModalityLUTSequence": Sequence([])},
    {"VOILUTFunction": ""},
    {"NumberOfFrames": None},
]


@pytest.mark.parametrize("header", EMPTY, ids=str)
def test_what_is_empty_or_invalid_counts_as_absent(header: dict[str, Any]) -> None:
    stored = film(3, 16, 16)
    np.testing.assert_array_equal(read(radiograph(stored, 8, **header)), stored)


def test_the_first_valid_window_is_taken() -> None:
    stored = np.arange(256).reshape(16, 16)
    second = read(radiograph(stored, 8, WindowCenter=64.5, WindowWidth=129))
    for centres, widths in (
        ([100, 64.5, 9], [0, 129, 4]),
        (["", 64.5], ["", 129]),
        ([64.5, 9], [129, 4]),
        ([64.5, 9], [129]),
    ):
        found = read(radiograph(stored, 8, WindowCenter=centres, WindowWidth=widths))
        np.testing.assert_array_equal(found, second)
    assert (second[8:, 2:] == 255).all()
    assert 1 < second[4, 4] < 254
    assert (read(radiograph(stored, 8, WindowCenter=64.5, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT"))[4:] == 255)[
        1:
    ].all()


def test_modality_and_voi_tables() -> None:
    stored = np.arange(256).reshape(16, 16)
    reverse = [4095 - 16 * i for i in range(256)]
    data = radiograph(stored, 8, ModalityLUTSequence=lut(reverse, 0, 12))
    np.testing.assert_allclose(read(data), 255 - stored, atol=1)  # 12 bits: from its lowest to its highest value
    data = radiograph(stored, 8, ModalityLUTSequence=lut([i // 2 for i in range(256)], 0, 8))
    np.testing.assert_array_equal(read(data), stored // 2)  # 8 bits: over all they can hold
    data = radiograph(stored, 8, ModalityLUTSequence=lut(reverse, 0, 12), WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(read(data), 255 - stored, atol=1)
    # More entries than 8 bits can count, each of 8 bits, after a rescale and beside a window.
    deep = np.arange(4096).reshape(64, 64)
    table = [i // 16 for i in range(4096)]
    voi = {"VOILUTSequence": lut(table, -1024, 8), "WindowCenter": 5, "WindowWidth": 5}
    data = radiograph(deep, 12, RescaleSlope=1, RescaleIntercept=-1024, **voi)
    np.testing.assert_array_equal(read(data), deep // 16)


def test_unused_bits_are_masked_and_signs_extended() -> None:
    junk = np.array([[0x0FFF, 0xF000], [0x1800, 0x0400]])
    found = read(radiograph(junk, 12))
    np.testing.assert_array_equal(found, [[255, 0], [128, 64]])
    data = radiograph(junk, 12)
    data.PixelRepresentation = 1  # -1, 0, -2048, 1024
    np.testing.assert_array_equal(read(data), [[170, 170], [0, 255]])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "holds PALETTE COLOR pixels in 1 frames, not one grey frame"),
    ({"PhotometricInterpretation": "RGB"}, "not one grey frame"),
    ({"PhotometricInterpretation": ""}, "not one grey frame"),
    ({"SamplesPerPixel": 3}, "not one grey frame"),
    ({"NumberOfFrames": 2}, "in 2 frames, not one grey frame"),
    ({"RescaleSlope": 0, "RescaleIntercept": 5}, "has the rescale slope 0 and intercept 5"),
    ({"RescaleSlope": "inf", "RescaleIntercept": 5}, "has the rescale slope inf"),
    ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "has the unknown VOI LUT function 'CUBIC'"),
    ({"RescaleSlope": [1, 2], "RescaleIntercept": 5}, "cannot be decoded"),
    ({"BitsStored": None}, "cannot be decoded"),
    ({"Rows": 4000}, "cannot be decoded"),
]


@pytest.mark.parametrize(("header", "problem"), REFUSED, ids=lambda v: str(v))
def test_what_is_no_grey_film_is_refused_in_one_line(header: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        read(radiograph(film(1, 16, 16), 8, **header))
    assert "\n" not in str(caught.value)
    assert ".dcm: " in str(caught.value)
    assert ".dcm" not in caught.value.problem.replace("(.dcm", "")  # it is kept in manifests


ANYTHING = st.one_of(
    st.none(),
    st.sampled_from(["", "abc", "1e400", "-0", "nan", "1\\2", "MONOCHROME1", "é"]),
    st.integers(-70000, 70000),
    st.floats(-1e6, 1e6).map(lambda v: f"{v:.6g}"),
)
TEXT = (
    "PhotometricInterpretation",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
)
SHORT = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from((*TEXT, "NumberOfFrames")), ANYTHING, max_size=4),
    st.dictionaries(
        st.sampled_from(SHORT), st.one_of(st.none(), st.integers(0, 65535), st.integers(0, 20)), max_size=2
    ),
    st.booleans(),
)
def test_any_header_gives_a_film_or_one_line(texts: dict[str, Any], shorts: dict[str, Any], odd: bool) -> None:
    data = radiograph(ramp(12, False), 12)
    for name, value in texts.items():
        data.add_new(name, "CS" if name in ("PhotometricInterpretation", "VOILUTFunction") else "DS", None)
        data[name]._value = value if value is None else str(value)
    for name, value in shorts.items():
        setattr(data, name, value)
    if odd:
        data.VOILUTSequence = lut([0, 255], 2000, shorts.get("BitsStored") or 8)
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of values that it mends
        data.save_as(file.name, enforce_file_format=True)
        try:
            grey = read_dicom(Path(file.name))
        except UserError as error:
            assert "\n" not in str(error)
            return
        assert grey.dtype == np.uint8
        assert grey.ndim == 2
        assert dicom_size(Path(file.name)) == grey.shape[::-1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1200), st.binary(min_size=1, max_size=8))
@example(506, b"\n")  # within a value that the error quotes
def test_damaged_bytes_give_a_film_or_one_line(place: int, bytes_: bytes) -> None:
    buffer = io.BytesIO()
    radiograph(ramp(12, False), 12, WindowCenter=2000, WindowWidth=4000).save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        Path(file.name).write_bytes(whole[:place] + bytes_ + whole[place + len(bytes_) :])
        try:
            assert read_dicom(Path(file.name)).dtype == np.uint8
        except UserError as error:
            assert "\n" not in str(error)


def test_a_header_without_a_size(tmp_path: Path) -> None:
    write_dicom(tmp_path / "x.dcm", film(1), Rows=None)
    with pytest.raises(UserError, match=r"x\.dcm: cannot be decoded"):
        dicom_size(tmp_path / "x.dcm")


def test_reading_warns_of_no_raw_value(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Warnings go to logs, which hold no identifiers."""
    write_dicom(tmp_path / "x.dcm", film(1), SOPInstanceUID="raw id 17", AccessionNumber="raw id 17" * 9)
    recwarn.clear()
    read_dicom(tmp_path / "x.dcm")
    dicom_size(tmp_path / "x.dcm")
    assert not [w for w in recwarn if "raw id" in str(w.message)]
