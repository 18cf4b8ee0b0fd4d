"""CheXpert v1.0 (and its small version), whole or as the 5x200 subset."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from mlip.data.formats.files import existing, need_folder, probe_jpeg, read_grey
from mlip.data.formats.people import people_of, person_columns
from mlip.data.formats.tables import Column, bad_row, present
from mlip.data.labels import CHEXPERT_LABELS, label_table
from mlip.data.records import Reader, ReaderOptions, Record
from mlip.errors import UserError
from mlip.seeding import generator

COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
_COLUMNS = (
    Column("Path", "path", unique=True),
    Column("Frontal/Lateral", "category", words=("Frontal", "Lateral")),
    Column("AP/PA", "category", optional=True),
)
_PERSON = ("Sex", "Age")
_PREFIXES = ("CheXpert-v1.0", "CheXpert-v1.0-small")


class ChexpertOptions(ReaderOptions):
    subset: Literal["five_by_200"] | None = Field(None, description="keep only the 5x200 images, or all")
    exclude_five_by_200: bool = Field(False, description="drop the 5x200 images and all others of their patients")
    per_class: int = Field(200, gt=0, description="images per class of the 5x200 subset")


class Chexpert(Reader):
    title = "CheXpert v1.0"
    citation = "Irvin et al., CheXpert: a large chest radiograph dataset with uncertainty labels and expert comparison, AAAI 2019"
    access = "https://stanfordmlgroup.github.io/competitions/chexpert/"
    layout = "train.csv, valid.csv, train/patientNNNNN/studyN/view1_frontal.jpg, valid/..."
    versions = ("v1.0", "v1.0-small")
    uncertainty = (
        "kept raw (1, 0, -1, NaN = not mentioned); the protocol of a task decides (MGCA: NaN 0, -1 by finding)"
    )
    labels = CHEXPERT_LABELS
    Options = ChexpertOptions

    def check(self, root: Path, options: ChexpertOptions) -> str:
        need_folder(root)
        if options.subset and options.exclude_five_by_200:
            raise UserError("options keep and exclude the 5x200 images at once", where=root, fix="give one of the two")
        label_table(root / "valid.csv", _COLUMNS, CHEXPERT_LABELS, rows=1)
        first = label_table(root / "train.csv", _COLUMNS, CHEXPERT_LABELS, rows=100)
        prefix = "" if first.empty else first.Path.iloc[0].split("/")[0]
        if prefix not in _PREFIXES:
            raise UserError(
                f"its paths begin with {prefix!r}, not with {' or '.join(_PREFIXES)}",
                where=root / "train.csv",
                fix="use version v1.0",
            )
        return prefix.removeprefix("CheXpert-")

    def complete(self, version: str, options: ChexpertOptions) -> dict[str, int]:
        if options.subset:
            return {"images": len(COMPETITION) * options.per_class}
        return {} if options.exclude_five_by_200 else {"images": 191_027 + 202}

    def records(self, root: Path, options: ChexpertOptions) -> list[Record]:
        train = self._frontal(root / "train.csv")
        if options.subset:
            return self._records(root, train.loc[self._five_by_200(root, train, options)], "test")
        if options.exclude_five_by_200:
            chosen = train.loc[self._five_by_200(root, train, options)]
            train = train[~train.patient.isin(chosen.patient)]
        return self._records(root, train, "train") + self._records(root, self._frontal(root / "valid.csv"), "test")

    def notes(self, root: Path, options: ChexpertOptions) -> list[str]:
        """What the manifest should say about these options."""
        if not (options.subset or options.exclude_five_by_200):
            return []
        count = len(self._five_by_200(root, self._frontal(root / "train.csv"), options)) // len(COMPETITION)
        fewer = "" if count == options.per_class else f" ({options.per_class} were asked for; a class has no more)"
        verb = "kept" if options.subset else "excluded with all images of their patients"
        return [f"5x200 subset: {count} exclusive positives per class{fewer}, {verb}"]

    def tables(self, root: Path, options: ChexpertOptions) -> list[Path]:
        return existing(root / "train.csv", root / "valid.csv")

    def load_image(self, record: Record) -> np.ndarray:
        return read_grey(record.path)

    def probe(self, record: Record) -> bool:
        return probe_jpeg(record.path)

    def _frontal(self, path: Path) -> pd.DataFrame:
        table = label_table(path, (*_COLUMNS, *present(path, person_columns(*_PERSON))), CHEXPERT_LABELS)
        parts = table.Path.str.extract(r"^([^/]+)/(.*(patient\d+)/.*)$")
        if (nameless := parts[2].isna()).any():
            raise bad_row(path, nameless.idxmax(), "the path names no patient")
        if (strange := parts[0] != parts[0].iloc[:1].max()).any():
            raise bad_row(path, strange.idxmax(), "the path begins otherwise than those above it")
        table = table.assign(file=parts[1], patient=parts[2])
        table = table[table["Frontal/Lateral"] == "Frontal"]
        return table.reset_index(drop=True)

    def _five_by_200(self, root: Path, train: pd.DataFrame, options: ChexpertOptions) -> np.ndarray:
        """Index of the subset: exactly one competition label positive, the other four negative or not mentioned.

        The official member list was never published (GLoRIA draws without a fixed list), so the draw is ours, seeded.
        """
        values = train[list(COMPETITION)].fillna(0.0).to_numpy(np.float64)
        exclusive = (values == 1) & ((values != 0).sum(axis=1, keepdims=True) == 1)
        size = min(options.per_class, int(exclusive.sum(axis=0).min()))
        if size == 0:
            lacking = [c for c, n in zip(COMPETITION, exclusive.sum(axis=0), strict=True) if n == 0]
            raise UserError(
                f"has no exclusive positive of {', '.join(lacking)}",
                where=root / "train.csv",
                fix="do not ask for the 5x200 subset",
            )
        rng = generator("chexpert", "five_by_200")
        return np.concatenate([np.sort(rng.choice(np.flatnonzero(c), size, replace=False)) for c in exclusive.T])

    def _records(self, root: Path, table: pd.DataFrame, part: str) -> list[Record]:
        values = table[list(CHEXPERT_LABELS)].to_numpy(np.float64).tolist()
        people = people_of(table, *_PERSON)
        rows = zip(table.file.tolist(), table.patient.tolist(), table["AP/PA"].tolist(), people, values, strict=True)
        return [
            Record(
                path=root / file,
                image_id=file,
                patient_id=patient,
                study_id=file.rsplit("/", 1)[0],
                view=view,
                sex=sex,
                age=age,
                official_split=part,
                labels=dict(zip(CHEXPERT_LABELS, row, strict=True)),
            )
            for file, patient, view, (sex, age), row in rows
        ]


READER = Chexpert()
