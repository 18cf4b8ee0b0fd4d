"""COVIDx CXR: three classes (version 9A) or two (train.txt / test.txt)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from mlip.data.formats.files import existing, name_fault, need_folder, numbered_lines, read_grey
from mlip.data.records import Reader, ReaderOptions, Record
from mlip.errors import UserError

_NAN = float("nan")
_CLASSES = {
    "normal": {"normal": 1.0, "pneumonia": 0.0, "COVID-19": 0.0},
    "pneumonia": {"normal": 0.0, "pneumonia": 1.0, "COVID-19": 0.0},
    "COVID-19": {"normal": 0.0, "pneumonia": 0.0, "COVID-19": 1.0},
    # The two-class lists do not say which of the other classes a film belongs to.
    "positive": {"normal": 0.0, "pneumonia": _NAN, "COVID-19": 1.0},
    "negative": {"normal": _NAN, "pneumonia": _NAN, "COVID-19": 0.0},
}


# What each release calls its lists, and how many films they hold: docs/COVIDx.md of COVID-Net at 9A, 9B and CXR-3; for CXR-4
# Wu et al., arXiv:2311.17677. Kaggle's `train.txt` is of CXR-2 and CXR-3 by turns, so its number is not known.
_RELEASES = {
    "9A": ("_COVIDx9A", 30_130 + 400),
    "9B": ("_COVIDx9B", 30_482 + 400),
    "CXR-3A": ("_COVIDx_CXR-3A", 29_634 + 400),
    "CXR-3B": ("_COVIDx_CXR-3B", 29_986 + 400),
    "CXR-4": ("", 84_818),
    "two_class": ("", None),
}
_PARTS = {"train": "train", "val": "validate", "test": "test"}
_WORDS = {name.casefold(): name for name in _CLASSES}


class CovidxOptions(ReaderOptions):
    version: str = Field(
        "9A",
        description="9A, 9B, CXR-3A, CXR-3B by the names of their lists; CXR-4 for train.txt, val.txt, test.txt; two_class for "
        "train.txt and test.txt of other releases",
    )


class Covidx(Reader):
    title = "COVIDx CXR"
    citation = (
        "Wang, Lin and Wong, COVID-Net: a tailored deep convolutional neural network design for detection of COVID-19 "
        "cases from chest X-ray images, Scientific Reports 10:19549, 2020"
    )
    access = "https://github.com/lindawangg/COVID-Net/blob/master/docs/COVIDx.md"
    layout = "train_COVIDx9A.txt, test_COVIDx9A.txt (or train.txt, val.txt, test.txt), train/, val/, test/"
    versions = tuple(_RELEASES)
    uncertainty = "none; two-class lists leave normal and pneumonia unknown (NaN)"
    labels = ("normal", "pneumonia", "COVID-19")
    Options = CovidxOptions

    def check(self, root: Path, options: CovidxOptions) -> str:
        need_folder(root)
        for part, path in self._lists(root, options).items():
            if not path.is_file() and (others := sorted(p.name for p in root.glob("*.txt"))):
                there = [v for v in _RELEASES if all(p.is_file() for p in self._named(root, v).values())]
                raise UserError(
                    f"version {options.version} is missing, found {', '.join(others)}",
                    where=path,
                    fix=f"set options.version to what is there{f': {there[0]}' if there else ''}",
                )
            first = numbered_lines(path)[:1]
            self._row(path, *(first[0] if first else (1, "")))
            need_folder(root / part, fix="unpack the images there")
        return options.version

    def complete(self, version: str, options: CovidxOptions) -> dict[str, int]:
        count = _RELEASES[version][1]
        return {} if count is None else {"images": count}

    def records(self, root: Path, options: CovidxOptions) -> list[Record]:
        records = []
        for part, path in self._lists(root, options).items():
            lines: dict[str, int] = {}
            for number, line in numbered_lines(path):
                patient, file, name = self._row(path, number, line)
                if (first := lines.setdefault(file, number)) != number:
                    raise UserError(
                        f"line {number} lists the film of line {first} again",
                        where=path,
                        fix="use the unmodified official list",
                    )
                records.append(
                    Record(
                        root / part / file,
                        f"{part}/{file}",
                        patient,
                        patient,
                        official_split=_PARTS[part],
                        labels=dict(_CLASSES[name]),
                    )
                )
        return records

    def tables(self, root: Path, options: CovidxOptions) -> list[Path]:
        return existing(*self._lists(root, options).values()) if options.version in _RELEASES else []

    def load_image(self, record: Record) -> np.ndarray:
        return read_grey(record.path)

    @staticmethod
    def _named(root: Path, version: str) -> dict[str, Path]:
        """The lists that a release has, by part."""
        parts = _PARTS if version == "CXR-4" else ("train", "test")
        return {part: root / f"{part}{_RELEASES[version][0]}.txt" for part in parts}

    @classmethod
    def _lists(cls, root: Path, options: CovidxOptions) -> dict[str, Path]:
        """Those of the release that is asked for; a val.txt beside train.txt is read whatever the release is called."""
        lists, val = cls._named(root, options.version), root / "val.txt"
        if lists["train"].name == "train.txt" and val.is_file():
            lists = {"train": lists["train"], "val": val, "test": lists["test"]}
        return lists

    @staticmethod
    def _row(path: Path, number: int, line: str) -> tuple[str, str, str]:
        """Patient, file name and class of a line ``<patient> <file> <class> [<source>]``; a patient may hold spaces."""
        words = line.split()
        at = next((i for i, w in enumerate(words) if i >= 2 and w.casefold() in _WORDS), None)
        if at is None or name_fault(words[at - 1]) or name_fault(" ".join(words[: at - 1])):
            raise UserError(
                f"line {number} is not `<patient> <file> <class> <source>`",
                where=path,
                fix="use the unmodified official list",
            )
        return " ".join(words[: at - 1]), words[at - 1], _WORDS[words[at].casefold()]


READER = Covidx()
