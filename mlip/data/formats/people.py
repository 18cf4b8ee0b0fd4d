"""Sex and age of the person on a film, in the spellings of tables and DICOM headers."""

from __future__ import annotations

import math
import re

import pandas as pd

from mlip.data.formats.tables import EMPTY, Column

_SEXES = {
    "F": ("f", "female", "woman", "w", "weiblich"),
    "M": ("m", "male", "man", "männlich"),
    "O": ("o", "other", "d", "divers", "x"),
    "": ("", "u", "unknown"),
}
_SEX = {word: sex for sex, words in _SEXES.items() for word in words}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([YMWD]?)", re.IGNORECASE)  # DICOM's age string is 058Y, 006M, 003W, 010D
_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}
_OLDEST = 120.0


def sex_of(cell: str) -> str | None:
    """F, M, O (other) or "" (not said); None where the word is none of these."""
    return "" if cell.strip() in EMPTY else _SEX.get(cell.strip().casefold())


def age_of(cell: str) -> float | None:
    """Years, NaN where the cell is empty; None where it is no age of a person (above 120 years, or no number)."""
    if cell.strip() in EMPTY:
        return math.nan
    match = _AGE.fullmatch(cell.strip())
    years = float(match[1]) / _PER_YEAR[match[2].upper()] if match else math.inf
    return years if years <= _OLDEST else None


def person_columns(sex: str, age: str) -> tuple[Column, Column]:
    """Columns to hand to ``read_table``; what they hold is never an error of a published table."""
    return Column(sex), Column(age)


def people_of(table: pd.DataFrame, sex: str, age: str) -> list[tuple[str, float]]:
    """(sex, age) of each row of a published table, unknown where the column is absent or the cell is no sex or age."""
    count = len(table)
    sexes = [sex_of(cell) or "" for cell in table[sex]] if sex in table else [""] * count
    ages = [age_of(cell) for cell in table[age]] if age in table else [None] * count
    return [(s, math.nan if a is None else a) for s, a in zip(sexes, ages, strict=True)]
