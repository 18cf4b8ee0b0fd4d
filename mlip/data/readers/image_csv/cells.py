"""What the cells of a table mean, row by row: names, parts, persons, labels. A cell that means nothing is an error with its line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from mlip.data.formats.people import age_of, sex_of
from mlip.data.formats.tables import EMPTY, Column, lines_of, read_table
from mlip.data.readers.image_csv.options import Cell, FindingsColumn, ImageCsvOptions, LabelColumn, plain
from mlip.errors import UserError

_PARTS = {
    "train": ("train", "training"),
    "validate": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}
_PART = {word: part for part, words in _PARTS.items() for word in words}
_POLICY = {"keep": -1.0, "positive": 1.0, "negative": 0.0, "unknown": math.nan}


class Cells:
    """The rows of one table under the options of one data set."""

    def __init__(self, path: Path, table: pd.DataFrame) -> None:
        self.path, self.table = path, table
        lines = list(lines_of(path))
        self.lines = [lines[number] for number in table.index]

    @classmethod
    def read(cls, path: Path, names: Iterable[str]) -> Cells:
        """The named columns as text.

        Raises
        ------
        UserError : the table cannot be read, or lacks a column.
        """
        try:
            return cls(path, read_table(path, [Column(name) for name in dict.fromkeys(names)]))
        except UserError as error:
            fix = "name columns that it has under the data set's `options`" if "column" in error.problem else error.fix
            raise UserError(error.problem, where=error.where, fix=fix) from None

    def error(self, row: int, problem: str, fix: str) -> UserError:
        return UserError(f"line {self.lines[row]}: {problem}", where=self.path, fix=fix)

    def words(self, cell: Cell, need: str = "") -> list[str]:
        """What each row says, "" where it says nothing; ``need``: what for, where it must."""
        found: list[str] = []
        meaning = {plain(word): said for word, said in cell.words.items()}
        for row, written in enumerate(self.table[cell.column].str.strip()):
            word = "" if written in EMPTY else written
            if word and cell.pattern:
                match = re.search(cell.pattern, word)
                if match is None:
                    raise self.error(
                        row,
                        f"{cell.column!r} does not match {cell.pattern!r}",
                        f"correct the cell or the pattern of {need or 'that option'}",
                    )
                word = (match[1] if match.re.groups else match[0]) or ""
            word = meaning.get(plain(word), word)
            if need and not word:
                raise self.error(row, f"{cell.column!r} is empty", f"fill it in: it is the {need} of the film")
            found.append(word)
        return found

    def parts(self, cell: Cell | None, patients: list[str]) -> list[str]:
        """The official part of each row, each patient in one."""
        if cell is None:
            return [""] * len(patients)
        parts, first = [], dict[str, int]()
        for row, (word, patient) in enumerate(zip(self.words(cell), patients, strict=True)):
            part = _PART.get(word.casefold(), "") if word else ""
            if word and not part:
                raise self.error(
                    row,
                    f"{cell.column!r} is {word[:40]!r}, a part is train, val or test",
                    "say what it means under `split.words`",
                )
            parts.append(part)
            before = first.setdefault(patient, row) if part else row
            if parts[before] != part:
                raise self.error(
                    row,
                    f"the patient is in {part}, and in line {self.lines[before]} in {parts[before]}",
                    "put all films of a patient into one part, or take `split` out of the options: the study then divides by patient",
                )
        return parts

    def sexes(self, cell: Cell | None) -> list[str]:
        if cell is None:
            return [""] * len(self.table)
        words = self.words(cell)
        found = [sex_of(word) for word in words]
        if None in found:
            row = found.index(None)
            raise self.error(
                row,
                f"{cell.column!r} is {words[row][:40]!r}, no sex",
                "say what it means under `sex.words`: F, M, O or ''",
            )
        return [sex or "" for sex in found]

    def ages(self, cell: Cell | None) -> list[float]:
        if cell is None:
            return [math.nan] * len(self.table)
        words = self.words(cell)
        found = [age_of(word) for word in words]
        if None in found:
            row = found.index(None)
            fix = "correct it, or empty the cell: years up to 120, or DICOM's 058Y, 006M"
            raise self.error(row, f"{cell.column!r} is {words[row][:40]!r}, no age", fix)
        return [age if age is not None else math.nan for age in found]

    def labels(self, options: ImageCsvOptions) -> dict[str, np.ndarray]:
        """By label float64 [rows]: 1, 0, -1 uncertain, NaN unknown, after the policies for uncertain and empty cells."""
        found = {name: self._label(name, column) for name, column in options.labels.items()}
        if options.findings:
            found |= self._findings(options.findings)
        for values in found.values():
            values[values == -1] = _POLICY[options.uncertain]
            if options.missing == "negative":
                values[np.isnan(values)] = 0.0
        return found

    def _label(self, name: str, column: LabelColumn) -> np.ndarray:
        meaning = column.meaning | {plain(word): math.nan for word in EMPTY}
        written = self.table[column.column]
        values = np.empty(len(written))
        for row, cell in enumerate(written):
            if (word := plain(cell)) not in meaning:
                raise self.error(
                    row,
                    f"{column.column!r} is {cell.strip()[:40]!r}, which is no value of the label {name!r}",
                    f"correct it, or name it under `labels.{name}`: positive, negative, uncertain or unknown",
                )
            values[row] = meaning[word]
        return values

    def _findings(self, column: FindingsColumn) -> dict[str, np.ndarray]:
        names = {plain(word): label for word, label in column.names.items()}
        none = {plain(word) for word in column.none}
        found = {label: np.zeros(len(self.table)) for label in column.names.values()}
        for row, cell in enumerate(self.table[column.column].str.strip()):
            words = [] if cell in EMPTY else [w for part in cell.split(column.separator) if (w := plain(part))]
            if not words:
                for values in found.values():
                    values[row] = math.nan
            for word in words:
                if word in none and len(set(words)) > 1:
                    raise self.error(row, f"{column.column!r} has {word!r} beside a finding", "correct it")
                if word in names:
                    found[names[word]][row] = 1.0
                elif word not in none and column.others == "error":
                    raise self.error(
                        row,
                        f"{column.column!r} has the unknown finding {word[:40]!r}",
                        "name it under `findings.names` or `findings.none`, or set `findings.others: ignore`",
                    )
        return found
