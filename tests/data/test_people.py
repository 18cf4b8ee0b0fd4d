"""Sex, age and view of the persons on the films, from the tables that say them."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from mlip.data.build import build_store
from mlip.data.catalogue import readers
from mlip.data.formats.people import age_of, sex_of
from mlip.data.records import Record
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from tests.data.layouts import WRITERS, study_of

# table of each data set that names persons, its columns of sex and age, and what the mini data set says there
TABLES = {
    "nih": ("Data_Entry_2017.csv", "Patient Gender", "Patient Age", ("F", 60.0)),
    "chexpert": ("train.csv", "Sex", "Age", ("F", 50.0)),
    "covid_chestxray": ("metadata.csv", "sex", "age", ("", math.nan)),
}


@pytest.mark.parametrize(
    ("cell", "sex"),
    [
        ("F", "F"),
        ("female", "F"),
        (" M ", "M"),
        ("Male", "M"),
        ("O", "O"),
        ("", ""),
        ("NA", ""),
        ("Unknown", ""),
        ("2", None),
    ],
)
def test_words_for_sex(cell: str, sex: str | None) -> None:
    assert sex_of(cell) == sex


@pytest.mark.parametrize(
    ("cell", "age"),
    [
        ("63", 63),
        ("63.5", 63.5),
        ("058Y", 58),
        ("006M", 0.5),
        ("0", 0),
        ("120", 120),
        ("414", None),
        ("old", None),
        ("-3", None),
    ],
)
def test_words_for_age(cell: str, age: float | None) -> None:
    assert age_of(cell) == age
    assert math.isnan(age_of("") or 0) and math.isnan(age_of("nan") or 0)


def records(name: str, root: Path) -> list[Record]:
    reader = readers()[name]
    return reader.records(root, reader.Options())


@pytest.mark.parametrize("name", TABLES)
def test_readers_give_what_their_tables_say(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    table, sex, age, (said, years) = TABLES[name]
    first = records(name, tmp_path)[0]
    assert first.sex == said and (first.age == years or (math.isnan(years) and math.isnan(first.age)))
    rows = pd.read_csv(tmp_path / table, dtype=str, keep_default_na=False)
    rows.assign(**{sex: "M", age: "33"}).to_csv(tmp_path / table, index=False)
    assert {(r.sex, r.age) for r in records(name, tmp_path) if r.official_split != "test" or name != "chexpert"} == {
        ("M", 33.0)
    }
    rows.assign(**{sex: "?", age: "414"}).to_csv(
        tmp_path / table, index=False
    )  # in the releases too: no error, unknown
    assert records(name, tmp_path)[0].sex == "" and math.isnan(records(name, tmp_path)[0].age)
    rows.drop(columns=[sex, age], errors="ignore").to_csv(tmp_path / table, index=False)
    assert records(name, tmp_path)[0].sex == ""
    rows.rename(columns={sex: sex.upper()}).assign(**{sex.upper(): "F"}).to_csv(tmp_path / table, index=False)
    with pytest.raises(UserError, match=f"lacks the column '{sex}'"):
        records(name, tmp_path)


def test_the_store_keeps_them(tmp_path: Path) -> None:
    WRITERS["nih"](tmp_path / "nih")
    study = study_of(tmp_path, {"nih": {}})
    build_store("nih", study, 1)
    table = open_store(StudyPaths(study).data("nih")).records
    assert set(table.sex) == {"F"} and set(table.age) == {60.0} and set(table.view) == {"PA", "AP"}
