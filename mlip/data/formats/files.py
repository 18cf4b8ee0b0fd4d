"""Small shared parts of the readers: files, folders, lists, grey images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mlip.errors import UserError

_LEFT_BEHIND = frozenset({"@eadir", "__macosx", "thumbs.db", "desktop.ini", "lost+found", "$recycle.bin"})
_LONGEST = 240  # bytes of a file name, less room for a suffix; file systems allow 255


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
    """Decode a JPEG or PNG to uint8 [H, W]; 16-bit files are scaled to 8 bits, colour becomes luminance.

    Raises
    ------
    UserError : the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):
                deep = np.asarray(image).astype(np.float64)
                return np.round(deep / (65535.0 if deep.max() > 255 else 255.0) * 255).astype(np.uint8)
            # Pillow refuses a truncated file; OpenCV would fill the rest with grey and say nothing.
            return np.asarray(image.convert("L"))
    except FileNotFoundError:
        raise UserError("is missing", where=path, fix="complete the download") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, ...
        raise unreadable(path, error) from None


def probe_jpeg(path: Path) -> None:
    """Read a JPEG to its last byte at an eighth of its size: as sure to find a truncated file as :func:`read_grey`, in half
    the time. Other formats are decoded in full.

    Raises
    ------
    UserError : the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except FileNotFoundError:
        raise UserError("is missing", where=path, fix="complete the download") from None
    except Exception as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> UserError:
    """The error of a file that cannot be decoded. Its problem holds no path, so that it can be kept in a manifest."""
    reason = first_line(error).replace(str(path), path.suffix)
    return UserError(f"cannot be decoded ({type(error).__name__}: {reason})", where=path, fix="download it again")


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of a JPEG or PNG from its header."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:
        raise unreadable(path, error) from None


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
