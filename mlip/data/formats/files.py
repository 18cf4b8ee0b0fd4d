"""Small shared parts of the readers: files, folders, lists, grey images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mlip.errors import UserError

_ORIENTATION = ExifTags.Base.Orientation  # 5 to 8: on its side
_LEFT_BEHIND = frozenset({"@eadir", "__macosx", "thumbs.db", "desktop.ini", "lost+found", "$recycle.bin"})
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")
_LONGEST = 240  # bytes of a file name, less room for a suffix; file systems allow 255
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


def existing(*paths: Path) -> list[Path]:
    """Those of the paths that are files."""
    return [path for path in paths if path.is_file()]


def read_lines(path: Path) -> list[str]:
    """Non-empty stripped lines of a list file, or none where there is no such file."""
    return [line for _, line in numbered_lines(path)] if path.is_file() else []


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Non-empty stripped lines of a text file with their line numbers.

    Raises
    ------
    UserError : the file is missing or no UTF-8 text.
    """
    try:
        lines = need_file(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot be read ({first_line(error)})", where=path, fix="save it as UTF-8 text") from None
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def walk_files(folder: Path, *suffixes: str, deep: bool = True) -> Iterator[Path]:
    """All files below a folder (or, if not ``deep``, in it) that end in one of the suffixes, whatever their case, folder by
    folder in alphabetical order.

    Hidden files and what operating systems and storage boxes leave behind are passed over. Links to folders are followed,
    but no folder is read twice, so a link that leads back ends there.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            status = here.stat()
            entries = sorted(os.scandir(here), key=lambda e: e.name)
        except OSError:  # a link to nowhere, or a folder that may not be read: its films count as missing
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        inner = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _LEFT_BEHIND:
                continue
            if (here / entry.name).is_dir():
                inner.append(here / entry.name)
            elif entry.name.lower().endswith(suffixes):
                yield here / entry.name
        waiting += reversed(inner if deep else [])


def name_fault(name: str, nested: bool = False) -> str:
    """Why a text out of a table can name no film or patient, or ""; ``nested`` allows a path below the folder.

    No separator, no way out of the folder, no control character, and no more bytes than a file name may have.
    """
    parts = name.split("/") if nested else [name]
    if any(part in ("", ".", "..") for part in parts) or (not nested and "/" in name):
        return "is no plain name"
    if not name.isprintable():
        return "holds a control character"
    if any(len(part.encode(errors="replace")) > _LONGEST for part in parts):
        return "is too long"
    return ""


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
