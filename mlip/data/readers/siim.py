"""SIIM-ACR Pneumothorax Segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from mlip.data.formats.dicom import dicom_header, dicom_size, read_dicom
from mlip.data.formats.files import existing, need_folder, walk_files
from mlip.data.formats.rle import decode_all
from mlip.data.formats.tables import Column, read_table
from mlip.data.records import Reader, ReaderOptions, Record
from mlip.errors import UserError

_COLUMNS = (
    Column("ImageId", "id"),
    Column(
        "EncodedPixels",
        pattern=r"-1|\d+ +\d+( +\d+ +\d+)*",
        form="-1 or pairs of whole numbers",
    ),
)
# The competition site now gives stage 2: its table holds the films of stage 1's training and test.
_TABLES = {"stage 2": "stage_2_train.csv", "stage 1": "train-rle.csv"}
_FILMS = {"stage 1": 10_675, "stage 2": 12_047}
_FOLDERS = ("dicom-images-train", "dicom-images-test", "stage_2_images")


class SiimOptions(ReaderOptions):
    patient_from_dicom: bool = Field(False, description="open every file for its PatientID instead of using ImageId")


class Siim(Reader):
    title = "SIIM-ACR Pneumothorax Segmentation"
    citation = "SIIM-ACR Pneumothorax Segmentation Challenge, Society for Imaging Informatics in Medicine, 2019"
    access = "https://www.kaggle.com/competitions/siim-acr-pneumothorax-segmentation"
    layout = (
        "train-rle.csv or stage_2_train.csv; <ImageId>.dcm anywhere below dicom-images-train/, dicom-images-test/ or "
        "stage_2_images/"
    )
    versions = ("stage 1", "stage 2")
    uncertainty = "none: an image is positive where it has a mask"
    labels = ("Pneumothorax",)
    mask_name = "Pneumothorax"
    Options = SiimOptions

    def check(self, root: Path, options: SiimOptions) -> str:
        need_folder(root)
        path = self._table(root, options)
        table = read_table(path, _COLUMNS)
        folders = self._folders(root) or [need_folder(root / _FOLDERS[0], fix="unpack the images there")]
        if next((film for folder in folders for film in walk_files(folder, ".dcm")), None) is None:
            raise UserError("holds no .dcm file", where=folders[0], fix="unpack the images there")
        # Users of the published code rename stage 2's table; what it lists tells the stages apart.
        renamed = table.ImageId.nunique() > _FILMS["stage 1"]
        return "stage 2" if renamed or path.name == _TABLES["stage 2"] else "stage 1"

    def complete(self, version: str, options: SiimOptions) -> dict[str, int]:
        return {"images": _FILMS[version]}

    def records(self, root: Path, options: SiimOptions) -> list[Record]:
        folders = self._folders(root)
        files = {p.stem: p for folder in reversed(folders) for p in walk_files(folder, ".dcm")}
        path = self._table(root, options)
        table = read_table(path, _COLUMNS)
        codes: dict[str, list[str]] = {}
        for image, code in zip(table.ImageId, table.EncodedPixels, strict=True):
            codes.setdefault(image, []).append(code)
        if codes and not codes.keys() & files.keys():
            raise UserError(
                f"none of its {len(codes)} films is among the {len(files)} of {', '.join(f.name for f in folders)} "
                "(the competition site's stage_2_images are the films of its second test, which have no masks)",
                where=path,
                fix="obtain the films of stage 1, dicom-images-train and dicom-images-test",
            )
        records = []
        for image in sorted(codes):
            file = files.get(image, root / _FOLDERS[0] / f"{image}.dcm")
            runs = tuple(c for c in codes[image] if c != "-1")
            patient = _patient(file) if options.patient_from_dicom else ""
            labels = {"Pneumothorax": float(bool(runs))}
            records.append(Record(file, image, patient or image, image, labels=labels, mask=runs))
        return records

    def annotation_rows(self, root: Path, options: Any) -> list[str]:
        """ImageId of every row of the table, in its order: published split scripts split these rows, not images."""
        return read_table(self._table(root, options), _COLUMNS).ImageId.tolist()

    def tables(self, root: Path, options: SiimOptions) -> list[Path]:
        return existing(self._table(root, options))

    @staticmethod
    def _table(root: Path, options: SiimOptions) -> Path:
        """Of both tables the one of ``options.version``, else stage 2's; of one table that one."""
        wanted = _TABLES.get(options.version or "stage 2", "")
        found = existing(root / wanted, *(root / name for name in _TABLES.values()))
        return found[0] if found else root / _TABLES["stage 1"]

    @staticmethod
    def _folders(root: Path) -> list[Path]:
        return [root / name for name in _FOLDERS if (root / name).is_dir()]

    def load_image(self, record: Record) -> np.ndarray:
        return read_dicom(record.path)

    def load_mask(self, record: Record) -> np.ndarray:
        width, height = dicom_size(record.path)
        return decode_all(record.mask, height, width)


def _patient(path: Path) -> str:
    """The file's PatientID; "" where there is none, or no readable file (which is then counted as such)."""
    try:
        return str(dicom_header(path).get("PatientID") or "").strip()
    except UserError:
        return ""


READER = Siim()
