"""NIH ChestX-ray14."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from mlip.data.formats.files import existing, image_size, need_file, need_folder, read_grey, read_lines, walk_files
from mlip.data.formats.people import people_of, person_columns
from mlip.data.formats.tables import Column, bad_row, present, read_table
from mlip.data.records import Box, Reader, ReaderOptions, Record
from mlip.errors import UserError

# NIH's names in NIH's order; two are spelt as CheXpert spells them, so that tasks find the same finding everywhere.
_NAMES = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Effusion": "Pleural Effusion",
    "Infiltration": "Infiltration",
    "Mass": "Mass",
    "Nodule": "Nodule",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Emphysema": "Emphysema",
    "Fibrosis": "Fibrosis",
    "Pleural_Thickening": "Pleural Thickening",
    "Hernia": "Hernia",
    "No Finding": "No Finding",
}
_CASELESS = {name.casefold(): label for name, label in _NAMES.items()}
_COLUMNS = (
    Column("Image Index", "id", unique=True),
    Column("Finding Labels", pattern=r".+", form="a list of findings"),
    Column("Patient ID", "id"),
    Column("View Position", "category", optional=True),
)
_PERSON = ("Patient Gender", "Patient Age")
_CORNER = ("Bbox [x", "y", "w", "h]")
_BOXED = tuple("Infiltrate" if name == "Infiltration" else name for name in list(_NAMES)[:8])
_BOX_COLUMNS = (
    Column("Image Index", "id"),
    Column("Finding Label", "category", words=(*_BOXED, "Infiltration")),
    *(Column(name, "number") for name in _CORNER),
)
_TABLES = {"v2020": "Data_Entry_2017_v2020.csv", "2017": "Data_Entry_2017.csv"}
_LISTS = ("train_val_list.txt", "test_list.txt")
_BOX_SIDE = 1024.0  # the box list is in pixels of the official 1024 x 1024 files


class NihOptions(ReaderOptions):
    templated_captions: bool = Field(
        False, description="NIH publishes no reports: make a sentence from the labels, so that text methods can be run"
    )


class Nih(Reader):
    title = "NIH ChestX-ray14"
    citation = (
        "Wang et al., ChestX-ray8: hospital-scale chest X-ray database and benchmarks on weakly-supervised classification "
        "and localization of common thorax diseases, CVPR 2017; NIH Clinical Center"
    )
    access = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
    layout = (
        "Data_Entry_2017.csv or Data_Entry_2017_v2020.csv; images/ or images_001..012/images/; optional "
        "BBox_List_2017.csv, train_val_list.txt, test_list.txt"
    )
    versions = ("2017", "v2020")
    uncertainty = "none: a finding not listed is negative (labels are text-mined by the providers)"
    labels = tuple(_NAMES.values())
    box_categories = tuple(list(_NAMES.values())[:8])
    Options = NihOptions

    def check(self, root: Path, options: NihOptions) -> str:
        version, path = self._table(root, options)
        read_table(path, _COLUMNS, rows=1)
        if not self._folders(root):
            raise UserError("holds neither images/ nor images_001/images/", where=root, fix="unpack the images there")
        return version

    def complete(self, version: str, options: NihOptions) -> dict[str, int]:
        return {"images": 112_120, "patients": 30_805}

    def records(self, root: Path, options: NihOptions) -> list[Record]:
        path = self._table(root, options)[1]
        table = read_table(path, (*_COLUMNS, *present(path, person_columns(*_PERSON))))
        findings = {}  # by cell: there are far fewer combinations of findings than films
        for row, cell in table["Finding Labels"].drop_duplicates().items():
            findings[cell] = self._present(path, row, cell)
        files = self._files(root)
        # Only part of the corpus may be unpacked; rows of files that were never unpacked are not corrupt images.
        table = table[table["Image Index"].isin(files.keys())]
        boxes = self._boxes(root, files)
        train, test = (set(read_lines(root / name)) for name in _LISTS)
        if both := len(train & test):
            raise UserError(
                f"lists {both} films of {_LISTS[0]} too", where=root / _LISTS[1], fix="use the official lists"
            )
        records = []
        rows = table[[c.name for c in _COLUMNS]].itertuples(index=False)
        for (name, cell, patient, view), (sex, age) in zip(rows, people_of(table, *_PERSON), strict=True):
            found = findings[cell]
            records.append(
                Record(
                    path=files[name],
                    image_id=name,
                    patient_id=patient,
                    study_id=name.removesuffix(".png"),
                    view=view,
                    sex=sex,
                    age=age,
                    official_split="test" if name in test else "train" if name in train else "",
                    labels={label: float(label in found) for label in self.labels},
                    boxes=tuple(boxes.get(name, ())),
                    report=templated_caption(found) if options.templated_captions else "",
                )
            )
        return records

    def tables(self, root: Path, options: NihOptions) -> list[Path]:
        try:
            table = self._table(root, options)[1]
        except UserError:
            return []
        return existing(table, root / "BBox_List_2017.csv", *(root / name for name in _LISTS))

    def load_image(self, record: Record) -> np.ndarray:
        return read_grey(record.path)

    def notes(self, root: Path, options: NihOptions) -> list[str]:
        """What the manifest should say about these options, and how much of the table is not there."""
        captions = "reports are TEMPLATED captions made from the labels, not radiologists' text"
        names = read_table(self._table(root, options)[1], _COLUMNS[:1])["Image Index"]
        absent = int((~names.isin(self._files(root).keys())).sum())
        left_out = f"{absent:,} of {len(names):,} films of the table are not unpacked: left out"
        return [captions] * options.templated_captions + [left_out] * bool(absent)

    def _table(self, root: Path, options: NihOptions) -> tuple[str, Path]:
        """Of both tables that of ``options.version``, else the newer one."""
        need_folder(root)
        found = {version: root / name for version, name in _TABLES.items() if (root / name).is_file()}
        if not found:
            need_file(root / _TABLES["2017"])
        version = options.version if options.version in found else next(iter(found))
        return version, found[version]

    @staticmethod
    def _folders(root: Path) -> list[Path]:
        return [p for p in (root / "images", *sorted(root.glob("images_0*/images"))) if p.is_dir()]

    @classmethod
    def _files(cls, root: Path) -> dict[str, Path]:
        return {p.name: p for folder in cls._folders(root) for p in walk_files(folder, ".png")}

    @staticmethod
    def _present(path: Path, row: Any, cell: str) -> set[str]:
        """The findings of a cell, by the project's names."""
        parts = [part.strip() for part in cell.split("|")]
        if unknown := [part for part in parts if part.casefold() not in _CASELESS]:
            raise bad_row(path, row, f"has the unknown finding {unknown[0]!r}")
        found = {_CASELESS[part.casefold()] for part in parts}
        if "No Finding" in found and len(found) > 1:
            raise bad_row(path, row, f"has 'No Finding' beside {sorted(found - {'No Finding'})[0]!r}")
        return found

    @staticmethod
    def _boxes(root: Path, files: dict[str, Path]) -> dict[str, list[Box]]:
        """Boxes by file name, scaled from the official 1024 px to the size of the file that is here."""
        boxes: dict[str, list[Box]] = {}
        path = root / "BBox_List_2017.csv"
        if not path.is_file():
            return boxes
        table = read_table(path, _BOX_COLUMNS)
        for name, finding, *corner in table[[c.name for c in _BOX_COLUMNS]].itertuples(index=False):
            if name not in files:
                continue
            try:
                width, height = image_size(files[name])
            except UserError:  # the film itself is then counted as unreadable
                continue
            category = _NAMES["Infiltration" if finding == "Infiltrate" else finding]
            x, y, w, h = (v / _BOX_SIDE for v in corner)
            boxes.setdefault(name, []).append(Box(x * width, y * height, w * width, h * height, category))
        return boxes


def templated_caption(present: set[str]) -> str:
    """One sentence made from the labels, in the order of the label set."""
    names = [n.lower() for n in Nih.labels if n in present and n != "No Finding"]
    if not names:
        return "FINDINGS: No finding is reported."
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"FINDINGS: There is {listed}."


READER = Nih()
