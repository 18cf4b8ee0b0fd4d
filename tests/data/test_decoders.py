"""DICOM, run-length code, plain images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.uid import JPEG2000Lossless, RLELossless

from mlip.data.formats.dicom import read_dicom
from mlip.data.formats.files import read_grey
from mlip.data.formats.rle import decode, decode_all, encode
from mlip.errors import UserError
from tests.data.layouts import dicom, film, write_dicom, write_image


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    pixels = film(1)
    write_dicom(tmp_path / "two.dcm", pixels)
    write_dicom(tmp_path / "one.dcm", pixels, photometric="MONOCHROME1")
    np.testing.assert_array_equal(read_dicom(tmp_path / "two.dcm"), pixels)
    np.testing.assert_array_equal(read_dicom(tmp_path / "one.dcm"), 255 - pixels)


def test_twelve_bits_are_stretched_to_eight(tmp_path: Path) -> None:
    deep = film(2).astype(np.uint16) * 10 + 700
    write_dicom(tmp_path / "deep.dcm", deep, bits=12)
    expected = (deep - deep.min()) / (deep.max() - deep.min()) * 255
    np.testing.assert_allclose(read_dicom(tmp_path / "deep.dcm"), expected, atol=0.51)


def test_window_and_rescale_are_applied(tmp_path: Path) -> None:
    deep = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    window = {
        "WindowCenter": 1000,
        "WindowWidth": 800,
        "RescaleSlope": 1,
        "RescaleIntercept": -1000,
        "RescaleType": "US",
    }
    write_dicom(tmp_path / "w.dcm", deep, bits=12, **window)
    seen, value = read_dicom(tmp_path / "w.dcm"), deep.astype(float) - 1000
    assert (seen[value < 599] == 0).all()
    assert (seen[value > 1401] == 255).all()
    # PS3.3 C.11.2.1.2: ((x - (c - 0.5)) / (w - 1) + 0.5) of the output range
    inside = (value > 620) & (value < 1380)
    np.testing.assert_allclose(seen[inside], (((value - 999.5) / 799) + 0.5)[inside] * 255, atol=1)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=["rle", "jpeg2000"])
def test_compressed_transfer_syntaxes_decode_to_the_same_pixels(tmp_path: Path, syntax: str) -> None:
    pixels = film(3, 64, 64)
    data = dicom(pixels)
    data.compress(syntax)
    data.save_as(tmp_path / "c.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_dicom(tmp_path / "c.dcm"), pixels)


def test_jpeg_baseline_as_in_rsna_and_siim(tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    pixels = film(4, 64, 64)
    write_image(tmp_path / "x.jpg", pixels)
    data = dicom(pixels)
    data.PixelData = encapsulate([(tmp_path / "x.jpg").read_bytes()])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.save_as(tmp_path / "j.dcm", enforce_file_format=True)
    assert np.abs(read_dicom(tmp_path / "j.dcm").astype(int) - pixels).mean() < 2


def test_truncated_dicom_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.dcm"
    write_dicom(path, film(5))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"cut\.dcm: cannot be decoded"):
        read_dicom(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"cut\.dcm: cannot be decoded"):
        read_dicom(path)
    with pytest.raises(UserError, match=r"none\.dcm: is missing"):
        read_dicom(tmp_path / "none.dcm")


def test_truncated_jpeg_is_an_error_not_a_half_grey_film(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    write_image(path, film(6, 200, 200))
    assert read_grey(path).shape == (200, 200)
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(UserError, match=r"cut\.jpg: cannot be decoded") as caught:
        read_grey(path)
    assert str(path) not in caught.value.problem  # it is kept in manifests, which hold no raw names


def test_sixteen_bit_png(tmp_path: Path) -> None:
    deep = (film(7).astype(np.uint16) << 8) + 128
    write_image(tmp_path / "deep.png", deep)
    np.testing.assert_allclose(read_grey(tmp_path / "deep.png"), film(7), atol=1)


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)))
def test_rle_round_trip(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode(encode(mask), *mask.shape), mask)


def test_rle_is_relative_and_goes_down_columns() -> None:
    # Offset 1 from the start: two pixels; then 3 further: one. Height 4, so columns are (0,1,1,0), (0,0,1,0).
    mask = decode(" 1 2 3 1 ", 4, 2)
    np.testing.assert_array_equal(mask.T, [[0, 1, 1, 0], [0, 0, 1, 0]])
    assert encode(mask) == "1 2 3 1"
    assert not decode(" -1", 4, 2).any()
    np.testing.assert_array_equal(decode_all(("0 1", "7 1"), 4, 2).T, [[1, 0, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("code", ["1 2 3", "a b", "7 2", "-3 1"])
def test_rle_refuses_what_is_no_code_of_this_image(code: str) -> None:
    with pytest.raises(UserError, match="EncodedPixels"):
        decode(code, 4, 2)
