"""Small shared parts of the readers: tables with named columns, folders, grey images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, ImageOps

from mlip.errors import UserError

_ORIENTATION = ExifTags.Base.Orientation  # 5 to 8: on its side
T = TypeVar("T")


def need_folder(path: Path, fix: str = "correct `root` in the study file, see docs/datasets.md") -> Path:
    """The folder, or UserError where there is none."""
    if not path.is_dir():
        raise UserError("there is no such folder", where=path, fix=fix)
    return path


def need_file(*candidates: Path) -> Path:
    """The first candidate that is a file, or UserError naming the first."""
    for path in candidates:
        if path.is_file():
            return path
    raise UserError("is missing", where=candidates[0], fix="complete the download, see docs/datasets.md")


def read_table(path: Path, columns: Iterable[str], rows: int | None = None) -> pd.DataFrame:
    """A csv (or csv.gz) as strings with stripped column names; only its first ``rows`` where given.

    Raises
    ------
    UserError : it cannot be read, or one of ``columns`` is missing.
    """
    try:
        table = pd.read_csv(path, dtype=str, nrows=rows, index_col=False, low_memory=False)
    except FileNotFoundError:
        need_file(path)
        raise
    except Exception as error:  # pandas, gzip and codecs each raise their own
        raise UserError(
            f"cannot be read as a table ({first_line(error)})", where=path, fix="download it again"
        ) from None
    table.columns = [str(c).strip() for c in table.columns]
    if missing := [c for c in columns if c not in table.columns]:
        names = ", ".join(repr(c) for c in missing)
        raise UserError(f"lacks the column {names}", where=path, fix="use the unmodified official table")
    return table


def read_lines(path: Path) -> list[str]:
    """Non-empty stripped lines of a list file, or none where there is no such file."""
    return (
        [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if path.is_file()
        else []
    )


def read_grey(path: Path) -> np.ndarray:
    """Decode a JPEG, PNG or other single picture to uint8 [H, W], upright as its EXIF orientation says.

    Colour (also of a palette or CMYK) becomes luminance, transparency is not looked at, and more than 8 bits are scaled by
    the bits that the file's values use (:func:`used_bits`).

    Raises
    ------
    UserError : the file is missing, truncated, no image, or an animation.
    """
    return _read(path, _grey)


def read_mask(path: Path) -> np.ndarray:
    """A mask kept as a picture: uint8 {0, 1} [H, W].

    Raises
    ------
    UserError : as :func:`read_grey`, or it holds other values than 0 and 1 or 0 and 255.
    """
    levels = np.unique(grey := read_grey(path))
    # No threshold: one would make a mask of 0 and 1 empty, and cannot know what the values of a third kind mean.
    if not any(np.isin(levels, (0, full)).all() for full in (1, 255)):
        raise UserError(
            f"is no mask: it holds {len(levels)} grey levels ({levels[0]}..{levels[-1]}), a mask 0 and 1 or 0 and 255",
            where=path,
            fix="make it binary",
        )
    return (grey > 0).astype(np.uint8)


def used_bits(highest: int) -> int:
    """The depth that a detector with these values has: the least of 8, 10, 12, 14 and 16 that holds the highest one.

    A film of 12 bits kept in a file of 16 so keeps its grey levels. Black stays black, which a stretch between a film's own
    ends would not keep, and one bright pixel does not darken the rest by more than four.
    """
    return next(bits for bits in (8, 10, 12, 14, 16, 32) if highest < 2**bits)


def probe_jpeg(path: Path) -> bool:
    """Read a JPEG to its last byte at an eighth of its size: as sure to find a truncated file as :func:`read_grey`, in half
    the time. Other formats are decoded in full. Returns whether the film has more than one grey level.

    Raises
    ------
    UserError : the file is missing, truncated or no image.
    """

    def probe(image: Image.Image) -> bool:
        image.draft("L", (image.width // 8, image.height // 8))
        image.load()
        low, high = image.getextrema() if image.mode == "L" else (0, 0)
        return low != high  # what is flat at an eighth of the size is looked at in full

    return _read(path, probe) or not is_flat(read_grey(path))


def is_flat(film: np.ndarray) -> bool:
    """Whether a film has one grey level: it shows nothing, however well it decodes."""
    return bool((film == film.flat[0]).all())


def _read(path: Path, use: Callable[[Image.Image], T]) -> T:
    """Open a picture of one frame; whatever decoders raise becomes one line."""
    try:
        with Image.open(path) as image:
            # A camera's MPO holds its picture first and previews after it.
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise UserError(f"holds {frames} frames, not one film", where=path, fix="leave it out")
            return use(image)
    except FileNotFoundError:
        raise UserError("is missing", where=path, fix="complete the download") from None
    except UserError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, ...
        raise unreadable(path, error) from None


def _grey(image: Image.Image) -> np.ndarray:
    # Pillow refuses a truncated file; OpenCV would fill the rest with grey and say nothing.
    image.load()
    if image.mode.startswith("I"):
        return _to_eight_bits(np.asarray(ImageOps.exif_transpose(image)))
    if image.mode == "F":
        raise ValueError("floating-point grey")
    if image.format == "PNG" and (deep := _deep_colour(Path(image.filename))) is not None:  # type: ignore[attr-defined]
        return _to_eight_bits(deep)
    return np.asarray(ImageOps.exif_transpose(image).convert("L"))


def _to_eight_bits(deep: np.ndarray) -> np.ndarray:
    return np.round(deep.astype(np.float64) / (2.0 ** used_bits(int(deep.max())) - 1) * 255).astype(np.uint8)


def _deep_colour(path: Path) -> np.ndarray | None:
    """Luminance of a PNG with 16 bits in each of several channels, [H, W] float; None of any other. Pillow keeps only the upper 8
    bits, in which a film of 12 has 16 grey levels.
    """
    with path.open("rb") as file:
        header = file.read(26)  # signature, then IHDR: width, height, bits per channel, kind of colour
    if header[24] != 16:
        return None
    import cv2

    pixels = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("colour of 16 bits that OpenCV cannot read")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)


def unreadable(path: Path, error: Exception) -> UserError:
    """The error of a file that cannot be decoded. Its problem holds no path, so that it can be kept in a manifest."""
    reason = first_line(error).replace(str(path), path.suffix)
    return UserError(f"cannot be decoded ({type(error).__name__}: {reason})", where=path, fix="download it again")


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of a JPEG or PNG from its header, upright as :func:`read_grey` gives it."""

    def size(image: Image.Image) -> tuple[int, int]:
        width, height = image.size
        return (height, width) if image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8) else (width, height)

    return _read(path, size)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def numbers(table: pd.DataFrame, columns: Iterable[str], path: Path) -> np.ndarray:
    """Columns of a table read as text: float64 [rows, columns], NaN where a cell is empty.

    Raises
    ------
    UserError : a cell is no number; its line and column are named.
    """
    values = []
    for name in columns:
        column = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        wrong = np.flatnonzero(np.isnan(column) & table[name].notna().to_numpy())
        if len(wrong):
            raise UserError(
                f"line {wrong[0] + 2}: {name!r} is {table[name].iloc[wrong[0]]!r}, no number",
                where=path,
                fix="use the unmodified official table",
            )
        values.append(column)
    return np.stack(values, axis=1)
