"""What can be fetched and from where: one file under ``mlip/fetch/sources`` per data set, named as its reader."""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from mlip.data.catalogue import readers
from mlip.data.formats.files import name_fault
from mlip.errors import UserError
from mlip.study import Strict, describe
from mlip.yaml_files import read_yaml

FOLDER = Path(__file__).parent / "sources"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Licence(Strict):
    """What a person accepts before anything is loaded."""

    name: str
    url: str
    asks: str = Field(description="in one or two sentences, printed before the question")

    @property
    def terms(self) -> str:
        """What was accepted: a licence whose words have changed is asked for again."""
        return f"{self.name}, {self.url}: {' '.join(self.asks.split())}"


class Unpack(Strict):
    """What is taken out of an archive. In ``take`` a pattern of the members' last parts (``images/*.png``) stands before the
    place under the data set's folder; ``*`` is any text without ``/`` and returns in the place.
    """

    size: int = Field(gt=0, description="bytes of what is taken, about")
    take: dict[str, str] = Field(min_length=1)


class SourceFile(Strict):
    """One file to load: an archive (``unpack``), or a file that is kept as it is (``to``)."""

    name: str
    url: str = Field(pattern=r"^https?://[^@\s]+$")  # no user and password before the host
    size: int = Field(gt=0, description="bytes, as far as known")
    sha256: Sha256 | None = Field(description="null: recorded at the first fetch")
    unpack: Unpack | None = None
    to: str | None = None
    beyond_first: bool = Field(False, description="left out by `--first`")

    @model_validator(mode="after")
    def _has_a_place(self) -> SourceFile:
        if (self.unpack is None) == (self.to is None):
            raise ValueError("give either `unpack` or `to`")
        for place in (self.name, *([self.to] if self.to else []), *(self.unpack.take.values() if self.unpack else [])):
            if fault := name_fault(place, nested=place != self.name):
                raise ValueError(f"{place!r} {fault}")
        return self

    @property
    def unpacked(self) -> int:
        """Bytes that stay on the disk, about."""
        return self.unpack.size if self.unpack else self.size


class Source(Strict):
    """One data set that anyone may load."""

    title: str
    page: str = Field(description="where a person finds the files when an address has died")
    licence: Licence
    folder: str = Field(description="under the folder that holds all data sets, as study files name it")
    believed: date = Field(description="when the addresses were last believed to be right")
    tried: date | None = Field(description="when they were last loaded from; null: never")
    known_from: str
    files: list[SourceFile] = Field(min_length=1)

    def wanted(self, first: bool) -> list[SourceFile]:
        """The files to load, with ``first`` only those of a first part."""
        return [file for file in self.files if not (first and file.beyond_first)]


def names() -> list[str]:
    """The data sets that can be fetched."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def address_file(name: str) -> Path:
    return FOLDER / f"{name}.yaml"


@cache
def _read(path: Path) -> Source:
    try:
        return Source.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(describe(error), where=path, fix="compare it with another file of its folder") from None


def read_source(name: str) -> Source:
    """The addresses of a data set.

    Raises
    ------
    UserError : it needs an agreement with its provider, it is no data set of the project, or its address file is wrong.
    """
    if name in names():
        return _read(address_file(name))
    if name in readers():
        reader = readers()[name]
        raise UserError(
            f"{reader.title} is not fetched: its provider wants to know who loads it, or gives it from a page only",
            where=reader.access,
            fix=f"obtain it there and unpack it as docs/datasets.md says; fetched are {', '.join(names())}",
        )
    raise UserError(f"there is no data set {name!r}", fix=f"one of {', '.join(names())}")
