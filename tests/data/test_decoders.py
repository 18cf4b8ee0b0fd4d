"""DICOM, run-length code, plain images."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import ExifTags, Image
from pydicom.uid import JPEG2000Lossless, RLELossless

from mlip.data.formats.dicom import read_dicom
from mlip.data.formats.files import image_size, probe_jpeg, read_grey, read_mask, used_bits
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


def deep_png(path: Path, deep: np.ndarray, kind: int, orientation: int = 1) -> None:
    """A PNG of 16 bits per channel, uint16 [H, W, channels]; ``kind`` is its colour type (0 grey, 2 RGB, 4 LA, 6 RGBA)."""
    height, width, _ = deep.shape
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + b"\0\0\0\0\0\0"
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"eXIf", exif),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


@pytest.mark.parametrize("kind", [0, 2, 4, 6], ids=["grey", "rgb", "la", "rgba"])
@pytest.mark.parametrize(("bits", "orientation"), [(10, 1), (12, 1), (12, 6), (14, 1), (16, 1)])
def test_a_png_of_sixteen_bits_keeps_the_grey_levels_of_its_film(
    kind: int, bits: int, orientation: int, tmp_path: Path
) -> None:
    ramp = np.rint(np.linspace(0, 2**bits - 1, 256)).astype(np.uint16).reshape(8, 32)
    opaque = [np.full_like(ramp, 65535)] if kind in (4, 6) else []
    deep_png(tmp_path / "x.png", np.stack([ramp] * (3 if kind in (2, 6) else 1) + opaque, axis=-1), kind, orientation)
    expected = np.arange(256).reshape(8, 32)
    found = read_grey(tmp_path / "x.png").astype(int)
    assert image_size(tmp_path / "x.png") == found.shape[::-1]
    np.testing.assert_allclose(found, np.rot90(expected, -1) if orientation == 6 else expected, atol=1)


def test_a_film_that_does_not_reach_the_end_of_its_depth_is_not_made_brighter(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", np.array([[0, 1500]], np.uint16))  # 12 bits, not 11
    assert read_grey(tmp_path / "x.png").tolist() == [[0, round(1500 / 4095 * 255)]]
    assert [used_bits(v) for v in (0, 255, 256, 1024, 4096, 16384, 65535)] == [8, 8, 10, 12, 14, 16, 16]


def test_colour_pictures_become_their_luminance(tmp_path: Path) -> None:
    grey = Image.fromarray(film(8))
    black = Image.new("L", grey.size)
    alpha = Image.fromarray(film(9))
    palette = Image.fromarray(255 - film(8)).convert("P")
    palette.putpalette([v for k in range(256) for v in (255 - k,) * 3])
    pictures = {
        "rgba.png": Image.merge("RGBA", [grey, grey, grey, alpha]),
        "la.png": Image.merge("LA", [grey, alpha]),
        "p.png": palette,
        "cmyk.jpg": Image.merge("CMYK", [black, black, black, Image.eval(grey, lambda v: 255 - v)]),
        "ycbcr.jpg": Image.merge("RGB", [grey, grey, grey]),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name, **({"quality": 100} if name.endswith("jpg") else {}))
        np.testing.assert_allclose(read_grey(tmp_path / name).astype(int), film(8), atol=3, err_msg=name)
        assert probe_jpeg(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_a_film_is_upright_as_its_orientation_says(name: str, orientation: int, tmp_path: Path) -> None:
    upright = np.array([[0, 80], [160, 240], [20, 20]], np.uint8).repeat(16, 0).repeat(16, 1)
    # How the upright film lies in a file with each orientation (EXIF 2.3, 4.6.4).
    turned = [
        upright,
        upright[:, ::-1],
        upright[::-1, ::-1],
        upright[::-1],
        upright.T,
        np.rot90(upright),
        upright[::-1, ::-1].T,
        np.rot90(upright, -1),
    ][orientation - 1]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / name, exif=exif)
    np.testing.assert_allclose(read_grey(tmp_path / name).astype(int), upright, atol=12)
    assert image_size(tmp_path / name) == (32, 48)


def test_what_is_no_single_film_is_refused_in_one_line(tmp_path: Path) -> None:
    frames = [Image.fromarray(film(k)) for k in range(3)]
    for name in ("x.gif", "x.png", "x.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(UserError, match=r"holds 3 frames, not one film"):
            read_grey(tmp_path / name)
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif: cannot be decoded \(ValueError: floating-point grey"):
        read_grey(tmp_path / "float.tif")


@pytest.mark.parametrize("name", ["x.png", "deep.png", "x.jpg"])
def test_truncated_pictures_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    pixels = np.random.default_rng(0).integers(0, 255, (60, 60)).astype(np.uint8)
    if name == "deep.png":
        deep_png(path, np.stack([pixels.astype(np.uint16) * 16] * 3, axis=-1), 2)
    else:
        write_image(path, pixels)
    whole = path.read_bytes()
    for share in (0, 0.02, 0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        for read in (read_grey, probe_jpeg):
            with pytest.raises(UserError, match=r"(png|jpg): cannot be decoded"):
                read(path)


def test_films_of_one_grey_level_are_seen(tmp_path: Path) -> None:
    flat, dot = np.full((160, 160), 77, np.uint8), np.full((160, 160), 77, np.uint8)
    dot[80, 80] = 255
    for name in ("x.jpg", "x.png"):
        for film_, shown in ((flat, False), (dot, True)):
            write_image(tmp_path / name, film_)
            assert probe_jpeg(tmp_path / name) is shown


MASK = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)


@pytest.mark.parametrize("scale", [1, 255, 65535], ids=str)
def test_masks_of_two_values(scale: int, tmp_path: Path) -> None:
    write_image(tmp_path / "m.png", MASK.astype(np.uint16 if scale > 255 else np.uint8) * scale)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), MASK)
    Image.fromarray(MASK * 255).convert("1").save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), MASK)


@pytest.mark.parametrize("values", [(0, 128), (0, 1, 255), (3, 255), (0, 2)], ids=str)
def test_other_values_are_no_mask(values: tuple[int, ...], tmp_path: Path) -> None:
    write_image(tmp_path / "m.png", np.array([values], np.uint8))
    with pytest.raises(UserError, match=r"m\.png: is no mask: it holds \d grey levels .* Fix: make it binary"):
        read_mask(tmp_path / "m.png")


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


NO_CODES = {
    "1 2 3": "has 3 fields",
    "a b": "is no run-length code",
    "1.0 2.0": "is no run-length code",
    "nan 2": "is no run-length code",
    "7 2": "a run ends at pixel 9 of an image of 2 x 4",
    "0 3 9223372036854775807 5": "a run ends at pixel",
    f"0 {'9' * 400}": "a run ends at pixel",
    "-3 1": "begins before the end of the run before",
    "0 3 -2 2": "begins before the end of the run before",
    "1 0": "has a run without length",
    "1 -2": "has a run without length",
}


@pytest.mark.parametrize("code", NO_CODES)
def test_rle_refuses_what_is_no_code_of_this_image(code: str) -> None:
    with pytest.raises(UserError, match=f"EncodedPixels: .*{NO_CODES[code]}.* Fix: ") as caught:
        decode(code, 4, 2)
    assert len(str(caught.value)) < 600


@settings(max_examples=200, deadline=None)
@given(st.text("0123456789- .e", max_size=12))
def test_any_code_is_a_mask_or_one_line(code: str) -> None:
    try:
        mask = decode(code, 5, 7)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        numbers = [int(v) for v in code.split() if v != "-1"]
        assert mask.shape == (5, 7)
        assert mask.sum() == sum(numbers[1::2])
