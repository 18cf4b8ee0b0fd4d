"""Small shared parts of the readers: tables with named columns, folders, grey images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mlip.errors import UserError


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
    return [line.strip() for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []


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
