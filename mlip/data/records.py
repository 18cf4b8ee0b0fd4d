"""What every reader yields and what the store keeps: the typed record of one image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mlip.data.formats.files import is_flat, walk_files
from mlip.errors import UserError


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the original image, top-left corner and size, with its category name."""

    x: float
    y: float
    width: float
    height: float
    category: str


@dataclass(frozen=True, slots=True)
class Record:
    """One image as its data set describes it. Identifiers are raw here; the store replaces them by salted hashes."""

    path: Path
    image_id: str
    patient_id: str
    study_id: str
    view: str = ""  # PA, AP, LATERAL, ... or "" where the data set does not say
    official_split: str = ""  # train, validate, test or "" where the data set has no split
    labels: dict[str, float] = field(default_factory=dict)  # 1, 0, -1 uncertain, NaN not mentioned
    boxes: tuple[Box, ...] = ()
    report: str = ""  # the report as written, or ""
    mask: Any = None  # what the reader's load_mask needs (RLE strings, a path); None: no mask known
    sex: str = ""  # F, M, O (other) or "" where the data set does not say
    age: float = float("nan")  # years at the time of the film, NaN where the data set does not say
    boxes_listed: bool = True  # False: nobody looked for boxes, so a film without any is no true negative


class ReaderOptions(BaseModel):
    """Options of a reader, as given under ``datasets.<name>.options``; readers subclass it. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")
    version: str | None = Field(None, description="the version that must be there; without it any supported one may be")


class Reader(ABC):
    """Understands one data set's on-disk layout. A reader never knows whether its folder is real or a twin.

    A module ``mlip/data/readers/<name>.py`` that sets ``READER`` to an instance is found by its file name.
    """

    title: str
    citation: str  # the official citation
    access: ClassVar[str]  # the official page where a person obtains the data
    layout: ClassVar[str]  # the files it expects, for docs and error messages
    versions: ClassVar[tuple[str, ...]]
    uncertainty: str  # what is done with uncertain labels
    labels: tuple[str, ...] = ()
    box_categories: tuple[str, ...] = ()
    mask_name: str = ""  # what the mask outlines, "" where there is none
    black_masks_are_empty: bool = False  # a mask file without a pixel says that nothing is there, not that nobody drew
    credentialed: ClassVar[bool] = False  # identifiers and reports may go to holders of the same agreement only
    own: ClassVar[bool] = False  # what a film shows is said by the study's options, so no protocol can list the reader
    reports: bool = False  # of an `own` reader: whether the options name reports
    Options: ClassVar[type[ReaderOptions]] = ReaderOptions

    def configured(self, options: Any) -> Reader:
        """The reader under these options: itself, or a copy where they decide on labels, categories or masks."""
        return self

    @abstractmethod
    def check(self, root: Path, options: Any) -> str:
        """Verify cheaply that the files and columns are there; return the version found.

        Raises
        ------
        UserError : a folder, file or column is missing, or the version is not supported.
        """

    def verify(self, root: Path, options: Any) -> str:
        """:meth:`check`, and that the version found is the one that ``options.version`` asks for.

        Raises
        ------
        UserError : as :meth:`check`, or it is another version.
        """
        wanted = options.version
        if wanted is not None and wanted not in self.versions:
            raise UserError(
                f"options.version is {wanted!r}, supported are {', '.join(self.versions)}",
                where=root,
                fix="set one of them",
            )
        found = self.check(root, options)
        if wanted not in (None, found):
            raise UserError(
                f"is version {found}, options.version asks for {wanted}",
                where=root,
                fix=f"obtain version {wanted} ({self.access}), or change options.version",
            )
        return found

    def tables(self, root: Path, options: Any) -> list[Path]:
        """The files beside the images that :meth:`records` is made from (tables, lists, annotations), those that are there:
        a change of one changes the records. Cheap, and it never raises. Reports by the hundred thousand are not among them.
        """
        return list(walk_files(root, ".csv", ".csv.gz", ".tsv", ".txt", ".json", deep=False))

    def complete(self, version: str, options: Any) -> dict[str, int]:
        """What the complete official release holds under these options, by the doctor's names of counts (images,
        patients, boxes); {} where that is not known. Sources: docs/datasets.md.
        """
        return {}

    @abstractmethod
    def records(self, root: Path, options: Any) -> list[Record]:
        """All images, in a deterministic order."""

    @abstractmethod
    def load_image(self, record: Record) -> np.ndarray:
        """Decode one image to uint8 [H, W], bright = dense (MONOCHROME1 inverted).

        Raises
        ------
        UserError : the file is missing or cannot be decoded.
        """

    def probe(self, record: Record) -> bool:
        """Make sure that an image can be decoded, and say whether it has more than one grey level; readers of formats that allow
        it do so without decoding every pixel.

        Raises
        ------
        UserError : as :meth:`load_image`.
        """
        return not is_flat(self.load_image(record))

    def notes(self, root: Path, options: Any) -> list[str]:
        """What a reader of the tables must know about these records; kept in the store's manifest."""
        return []

    def load_mask(self, record: Record) -> np.ndarray | None:
        """Binary mask uint8 {0, 1} [H, W] of the original image, or None where no mask is known.

        An image known to hold nothing gives an all-zero mask, not None.
        """
        return None
