"""Tables of data sets: every column has a kind, and a cell that is not of it is one line with file and line number."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pandas as pd

from mlip.data.formats.files import first_line, name_fault, need_file
from mlip.errors import UserError

FIX = "use the unmodified official table, or mend that line"
# What counts as an empty cell beside nothing and blanks: the words that pandas and spreadsheets write for a missing value.
EMPTY = ("", "nan", "NaN", "NAN", "-nan", "-NaN", "NA", "N/A", "n/a", "<NA>", "#N/A", "NULL", "null", "None", "none")
_LABELS = (1.0, 0.0, -1.0)
_UNREADABLE = (OSError, EOFError, ValueError, csv.Error, zlib.error)  # UnicodeError and pandas' errors are ValueErrors
csv.field_size_limit(2**31 - 1)  # a run-length code may be longer than the 128 KiB that csv allows


@dataclass(frozen=True)
class Column:
    """What one column of a table holds. Blanks around a cell never count.

    Parameters
    ----------
    kind : ``id`` and ``path`` name a film, patient or study and are never empty (a path lies below the data set's folder);
        ``label`` is 1, 0, -1 or empty; ``number`` is finite; ``category`` is a word, of any case; ``text`` is as written.
    optional : an empty cell is allowed: "" or NaN. It always is for a label, and for a text without a pattern.
    words : of a category, those it may be, in the spelling that is handed on; without any, all words in capitals.
    pattern, form : a regular expression that the cell must match as a whole, and what it asks for in words.
    unique : no two rows may share the cell.
    """

    name: str
    kind: Literal["id", "path", "label", "number", "category", "text"] = "text"
    optional: bool = False
    words: tuple[str, ...] = ()
    pattern: str = ""
    form: str = ""
    unique: bool = False


def read_table(
    path: Path,
    columns: Sequence[Column],
    rows: int | None = None,
    keep: Callable[[pd.DataFrame], pd.Series] | None = None,
) -> pd.DataFrame:
    """The named columns of a csv or csv.gz, in the file's own order: str, or float64 for labels and numbers.

    Rows without any of these cells are passed over. The index is the number of a row in the file, for :func:`bad_row`.

    Parameters
    ----------
    rows : only so many rows from the top.
    keep : which rows are read at all, given their cells as stripped text; what is wrong in others does not matter.

    Raises
    ------
    UserError : the file cannot be read, lacks a column or has it twice, or a cell is not what its column holds.
    """
    names, width = _first_lines(path)
    places = _places(path, names, [c.name for c in columns])
    try:
        with _opened(path) as file:
            raw = pd.read_csv(
                file,
                header=0,
                names=range(width),
                dtype=str,
                nrows=rows,
                index_col=False,
                skip_blank_lines=False,
                na_filter=False,
                encoding="utf-8",
                low_memory=False,
            )
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    order = sorted(columns, key=lambda c: places[c.name])
    written = raw[[places[c.name] for c in order]]
    written.columns = pd.Index([c.name for c in order])
    cells = pd.DataFrame({name: written[name].str.strip() for name in written})
    empty = pd.DataFrame({name: cells[name].isin(EMPTY) for name in cells})
    used = ~empty.all(axis=1)
    if keep is not None:
        used &= keep(cells.mask(empty, ""))
    if not used.all():
        written, cells, empty = written[used], cells[used], empty[used]
    return pd.DataFrame({c.name: _read(path, c, written[c.name], cells[c.name], empty[c.name]) for c in order})


def bad_row(path: Path, row: Any, problem: str, fix: str = FIX) -> UserError:
    """The error of one row of a table, by its index in :func:`read_table`'s result; the line of the file is named."""
    return UserError(f"line {_line(path, int(row))}: {problem}", where=path, fix=fix)


def _read(path: Path, column: Column, written: pd.Series, cells: pd.Series, empty: pd.Series) -> pd.Series:
    """One column, checked and converted."""
    name = column.name
    may_be_empty = column.optional or column.kind == "label" or (column.kind == "text" and not column.pattern)
    if not may_be_empty and empty.any():
        raise bad_row(path, empty.idxmax(), f"{name!r} is empty")
    if column.kind in ("label", "number"):
        codes, words = pd.factorize(cells)
        numbers = pd.to_numeric(pd.Series(words, dtype=object), errors="coerce").to_numpy(np.float64)[codes]
        good = np.isin(numbers, _LABELS) if column.kind == "label" else np.isfinite(numbers)
        if (wrong := ~(good | empty.to_numpy())).any():
            at = int(np.flatnonzero(wrong)[0])
            said = "a label is 1, 0, -1 or empty" if column.kind == "label" else "no number"
            raise bad_row(path, cells.index[at], f"{name!r} is {cells.iloc[at][:40]!r}, {said}")
        return pd.Series(np.where(empty, np.nan, numbers), cells.index)
    cells = cells.mask(empty, "")
    if column.kind == "category":
        cells = _category(path, column, cells, empty)
    if column.kind in ("id", "path"):
        _need(path, cells, _names(cells, column.kind == "path"), f"{name!r} cannot be the name of a file or patient")
    if column.pattern:
        _need(path, cells, cells.str.fullmatch(column.pattern) | empty, f"{name!r} is not {column.form}")
    if column.unique and (again := cells.duplicated()).any():
        at = int(np.flatnonzero(again)[0])
        first = int(np.flatnonzero(cells == cells.iloc[at])[0])
        line = _line(path, int(cells.index[first]))
        raise bad_row(path, cells.index[at], f"{name!r} is the same as in line {line}")
    return written.mask(empty, "") if column.kind == "text" and not column.pattern else cells


def _category(path: Path, column: Column, cells: pd.Series, empty: pd.Series) -> pd.Series:
    codes, words = pd.factorize(cells)
    if not column.words:
        return pd.Series(np.array([w.upper() for w in words], dtype=object)[codes], cells.index, dtype=cells.dtype)
    spelling = {v.casefold(): v for v in column.words}
    read = np.array([spelling.get(w.casefold(), "") for w in words], dtype=object)[codes]
    if (wrong := (read == "") & ~empty.to_numpy()).any():
        at = int(np.flatnonzero(wrong)[0])
        listed = ", ".join(column.words)
        raise bad_row(path, cells.index[at], f"{column.name!r} is {cells.iloc[at][:40]!r}, it is one of {listed}")
    return pd.Series(read, cells.index, dtype=cells.dtype)


def _names(cells: pd.Series, nested: bool) -> pd.Series:
    """Which cells can name a file. Only the doubtful ones are looked at one by one."""
    part = r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,99}"
    good = cells.str.fullmatch(rf"{part}(/{part})*" if nested else part).to_numpy(bool, copy=True)
    for at in np.flatnonzero(~good):
        good[at] = not name_fault(cells.iloc[at], nested)
    return pd.Series(good, cells.index)


def _need(path: Path, cells: pd.Series, good: pd.Series, problem: str) -> None:
    if not good.all():
        raise bad_row(path, (~good).idxmax(), problem)


def _places(path: Path, found: list[str], names: Iterable[str]) -> dict[str, int]:
    """Where each column is."""
    if missing := [n for n in names if n not in found]:
        folded = {name.casefold(): name for name in found}
        alike = [folded[n.casefold()] for n in missing if n.casefold() in folded]
        said = f" (it has {', '.join(map(repr, alike))})" if alike else ""
        listed = ", ".join(map(repr, missing))
        raise UserError(f"lacks the column {listed}{said}", where=path, fix="use the unmodified official table")
    for name in names:
        if found.count(name) > 1:
            raise UserError(f"has the column {name!r} twice", where=path, fix="use the unmodified official table")
    return {name: found.index(name) for name in names}


def header(path: Path) -> list[str]:
    """The names of a table's columns.

    Raises
    ------
    UserError : the file is missing or cannot be read.
    """
    return _first_lines(path)[0]


def _first_lines(path: Path) -> tuple[list[str], int]:
    """The stripped names of the columns, and the number of cells in the longer of the first two lines."""
    try:
        with _opened(path) as file:
            records = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
            names, first = next(records, []), next(records, [])
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    return [name.strip() for name in names], max(len(names), len(first))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The file's bytes, unpacked where it is packed, whatever its name says: browsers unpack what they download.

    Raises
    ------
    UserError : there is no such file.
    """
    with need_file(path).open("rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with gzip.open(file) as unpacked:
                yield unpacked
        else:
            yield file


def present(path: Path, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Those of the columns that the table has, in any case: :func:`read_table` refuses another spelling.

    Raises
    ------
    UserError : as :func:`header`.
    """
    found = {name.casefold() for name in header(path)}
    return tuple(column for column in columns if column.name.casefold() in found)


def lines_of(path: Path) -> Iterator[int]:
    """The line of the file on which each row begins, row by row; a quoted cell may hold line breaks."""
    with _opened(path) as file:
        records = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
        for _ in records:  # the header is record 0, so row 0 begins after it
            yield records.line_num + 1


def _line(path: Path, row: int) -> int:
    return next((line for number, line in enumerate(lines_of(path)) if number == row), row + 2)


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"cannot be read as a table ({first_line(error)})", where=path, fix="download it again")
