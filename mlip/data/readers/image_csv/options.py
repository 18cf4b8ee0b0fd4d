"""What a study says of films of its own: which column of the table holds what, and what its words mean."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mlip.data.records import ReaderOptions
from mlip.study import Strict

NO_FINDING = "No Finding"


def _word(value: Any) -> Any:
    """A cell's text as YAML gives it: a number is meant as it is written, true and false are not."""
    if isinstance(value, bool):
        raise ValueError("put it in quotes: YAML reads yes, no, true and false without them as truth values")
    return f"{value:g}" if isinstance(value, (int, float)) else value


def _words(value: Any) -> Any:
    return {_word(k): v for k, v in value.items()} if isinstance(value, dict) else value


def _cell(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


Word = Annotated[str, BeforeValidator(_word)]


class Cell(Strict):
    """One thing that a row says. A plain name stands for the column alone."""

    column: str
    pattern: str = Field(
        default="", description="regular expression; its group, or else all that it matches, is what counts"
    )
    words: Annotated[dict[str, str], BeforeValidator(_words)] = Field(
        default_factory=dict, description="words of the table -> what they mean here"
    )

    @model_validator(mode="after")
    def _compiles(self) -> Cell:
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern is no regular expression: {error}") from None
        if groups > 1:
            raise ValueError("pattern has more than one group")
        return self


Named = Annotated[Cell, BeforeValidator(_cell)]


class LabelColumn(Strict):
    """A column that says one label, and its words. Case and blanks do not count, 1 and 1.0 are one word."""

    column: str
    positive: list[Word] = Field(["1"], min_length=1)
    negative: list[Word] = Field(["0"])
    uncertain: list[Word] = Field(["-1"])
    unknown: list[Word] = Field(default_factory=list, description="words that count as an empty cell")

    @property
    def meaning(self) -> dict[str, float]:
        """Value by word."""
        values = ((self.unknown, float("nan")), (self.uncertain, -1.0), (self.negative, 0.0), (self.positive, 1.0))
        return {plain(word): value for words, value in values for word in words}

    @model_validator(mode="after")
    def _one_meaning(self) -> LabelColumn:
        given = [plain(w) for w in (*self.positive, *self.negative, *self.uncertain, *self.unknown)]
        if again := next((w for w in given if given.count(w) > 1), None):
            raise ValueError(f"{again!r} has two meanings")
        return self


class FindingsColumn(Strict):
    """A column that lists the findings that are present; those that it does not list are absent."""

    column: str
    separator: str = Field("|", min_length=1)
    names: dict[str, str] = Field(
        min_length=1, description="word of the table -> label; a list: labels as they are written"
    )
    none: list[str] = Field([NO_FINDING], description="words that say that nothing is present")
    others: Literal["error", "ignore"] = Field("error", description="what a word that is in neither is")

    @model_validator(mode="before")
    @classmethod
    def _list_of_names(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(names := values.get("names"), list):
            return {**values, "names": {str(name): str(name) for name in names}}
        return values


class BoxTable(Strict):
    """Boxes in pixels of the film: a corner with width and height, or two corners (right, bottom)."""

    table: str = Field(
        "", description="a csv of one box a row; without it, the table of the films, with one box at most"
    )
    image: Named | None = Field(None, description="its column that names the film, without it that of the films' table")
    x: str
    y: str
    width: str = ""
    height: str = ""
    right: str = ""
    bottom: str = ""
    category: str = Field("", description="column that names what a box holds; without it all hold the first category")
    categories: list[str] = Field(min_length=1)
    unlisted: Literal["unknown", "negative"] = Field(
        "unknown", description="a film without a row: nobody looked for boxes, or there is nothing"
    )

    @model_validator(mode="after")
    def _one_form(self) -> BoxTable:
        forms = (bool(self.width and self.height), bool(self.right and self.bottom))
        if sum(forms) != 1 or sum(map(bool, (self.width, self.height, self.right, self.bottom))) != 2:
            raise ValueError("give width and height, or right and bottom")
        return self

    @property
    def corner(self) -> tuple[str, str, str, str]:
        """The four columns of numbers."""
        return self.x, self.y, self.width or self.right, self.height or self.bottom


class Masks(Strict):
    """Pictures of 0 and 1, or 0 and 255, each of its film's size: named in a column, or in a folder with the films' stems."""

    name: str = Field(description="what they outline")
    file: Named | None = None
    folder: str = ""
    without: Literal["unknown", "empty"] = Field(
        "unknown", description="a film without a mask: nobody drew one, or there is nothing"
    )
    black: Literal["unknown", "empty"] = Field("unknown", description="a mask without a pixel: the same question")

    @model_validator(mode="after")
    def _one_place(self) -> Masks:
        if bool(self.file) == bool(self.folder):
            raise ValueError("give file or folder")
        return self


class ImageCsvOptions(ReaderOptions):
    title: str = Field("", description="printed with the data set; without it its table's name")
    citation: str = "data of the study's holder, unpublished"
    table: str = Field("films.csv", description="a csv of one row a film, below root")
    folder: str = Field("", description="films are looked for below this folder of root only")
    image: Named = Field(Cell(column="image"), description="the film's file")
    patient: Named = Field(Cell(column="patient"), description="whose films are never divided")
    study: Named | None = Field(None, description="films of one examination; without it each film is one")
    view: Named | None = None
    sex: Named | None = None
    age: Named | None = Field(None, description="years, or DICOM's 058Y")
    split: Named | None = Field(None, description="train, val or test, or empty")
    text: Named | None = Field(None, description="the report itself")
    text_file: Named | None = Field(None, description="a text file below root, by path, name or stem")
    labels: dict[str, LabelColumn] = Field(default_factory=dict, description="by name; a list: columns of 1, 0, -1")
    findings: FindingsColumn | None = None
    uncertain: Literal["keep", "positive", "negative", "unknown"] = Field("keep", description="what -1 becomes")
    missing: Literal["unknown", "negative"] = Field("unknown", description="what an empty cell becomes")
    boxes: BoxTable | None = None
    masks: Masks | None = None
    absent_films: Literal["error", "leave_out"] = Field("error", description="a row whose film is not there")
    absent_texts: Literal["error", "leave_out"] = Field("error", description="a row whose text file is not there")

    @model_validator(mode="before")
    @classmethod
    def _list_of_labels(cls, values: Any) -> Any:
        labels = values.get("labels") if isinstance(values, dict) else None
        if isinstance(labels, list):
            return {**values, "labels": {str(name): {"column": str(name)} for name in labels}}
        return values

    @model_validator(mode="after")
    def _fit(self) -> ImageCsvOptions:
        if self.text and self.text_file:
            raise ValueError("give text or text_file")
        named = [*self.labels, *(dict.fromkeys(self.findings.names.values()) if self.findings else ())]
        if twice := next((name for name in named if named.count(name) > 1), None):
            raise ValueError(f"the label {twice!r} is given twice")
        return self

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple([*self.labels, *(dict.fromkeys(self.findings.names.values()) if self.findings else ())])


def plain(word: str) -> str:
    """A word of a cell as it is compared: without case and outer blanks, numbers by value."""
    word = word.strip().casefold()
    try:
        return f"{float(word):g}"
    except ValueError:
        return word
