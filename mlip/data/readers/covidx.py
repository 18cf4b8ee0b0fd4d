"""COVIDx CXR: three classes (version 9A) or two (train.txt / test.txt)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from mlip.data.formats.files import need_file, need_folder, read_grey, read_lines
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


class CovidxOptions(ReaderOptions):
    version: str = Field("9A", description="9A reads train_COVIDx9A.txt; two_class reads train.txt of CXR-2 and later")


class Covidx(Reader):
    title = "COVIDx CXR"
    citation = (
        "Wang, Lin and Wong, COVID-Net: a tailored deep convolutional neural network design for detection of COVID-19 "
        "cases from chest X-ray images, Scientific Reports 10:19549, 2020"
    )
    access = "https://github.com/lindawangg/COVID-Net/blob/master/docs/COVIDx.md"
    layout = "train_COVIDx9A.txt, test_COVIDx9A.txt (or train.txt, test.txt), train/, test/"
    versions = ("9A", "two_class")
    uncertainty = "none; two-class lists leave normal and pneumonia unknown (NaN)"
    labels = ("normal", "pneumonia", "COVID-19")
    Options = CovidxOptions

    def check(self, root: Path, options: CovidxOptions) -> str:
        need_folder(root)
        for part, path in self._lists(root, options).items():
            if not path.is_file() and (others := sorted(p.name for p in root.glob("*.txt"))):
                raise UserError(
                    f"version {options.version} is missing, found {', '.join(others)}",
                    where=path,
                    fix="set options.version to what is there",
                )
            need_file(path)
            self._row(path, 1, (read_lines(path) or [""])[0])
            need_folder(root / part, fix="unpack the images there")
        return options.version

    def complete(self, version: str, options: CovidxOptions) -> dict[str, int]:
        return {"images": 29_986 + 400} if version == "9A" else {}

    def records(self, root: Path, options: CovidxOptions) -> list[Record]:
        records = []
        for part, path in self._lists(root, options).items():
            for index, line in enumerate(read_lines(path), 1):
                patient, file, name = self._row(path, index, line)
                records.append(
                    Record(
                        root / part / file,
                        f"{part}/{file}",
                        patient,
                        patient,
                        official_split=part,
                        labels=dict(_CLASSES[name]),
                    )
                )
        return records

    def load_image(self, record: Record) -> np.ndarray:
        return read_grey(record.path)

    @staticmethod
    def _lists(root: Path, options: CovidxOptions) -> dict[str, Path]:
        suffix = "" if options.version == "two_class" else f"_COVIDx{options.version}"
        return {part: root / f"{part}{suffix}.txt" for part in ("train", "test")}

    @staticmethod
    def _row(path: Path, index: int, line: str) -> tuple[str, str, str]:
        """Patient, file name and class of a line ``<patient> <file> <class> [<source>]``; a patient may hold spaces."""
        words = line.split()
        at = next((i for i, w in enumerate(words) if i >= 2 and w in _CLASSES), None)
        if at is None:
            raise UserError(
                f"line {index} is not `<patient> <file> <class> <source>`",
                where=path,
                fix="use the unmodified official list",
            )
        return " ".join(words[: at - 1]), words[at - 1], words[at]


READER = Covidx()
