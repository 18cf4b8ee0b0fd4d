"""SIIM-ACR Pneumothorax Segmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from mlip.data.formats.dicom import dicom_header, dicom_size, read_dicom
from mlip.data.formats.files import need_file, need_folder, read_table
from mlip.data.formats.rle import decode_all
from mlip.data.records import Reader, ReaderOptions, Record
from mlip.errors import UserError

_COLUMNS = ("ImageId", "EncodedPixels")


class SiimOptions(ReaderOptions):
    patient_from_dicom: bool = Field(False, description="open every file for its PatientID instead of using ImageId")


class Siim(Reader):
    title = "SIIM-ACR Pneumothorax Segmentation"
    citation = "SIIM-ACR Pneumothorax Segmentation Challenge, Society for Imaging Informatics in Medicine, 2019"
    access = "https://www.kaggle.com/competitions/siim-acr-pneumothorax-segmentation"
    layout = "train-rle.csv, dicom-images-train/**/<ImageId>.dcm"
    versions = ("stage 1",)
    uncertainty = "none: an image is positive where it has a mask"
    labels = ("Pneumothorax",)
    mask_name = "Pneumothorax"
    Options = SiimOptions

    def check(self, root: Path, options: SiimOptions) -> str:
        need_folder(root)
        read_table(need_file(root / "train-rle.csv"), _COLUMNS, rows=1)
        folder = need_folder(root / "dicom-images-train", fix="unpack the images there")
        if next(folder.rglob("*.dcm"), None) is None:
            raise UserError("holds no .dcm file", where=folder, fix="unpack the images there")
        return "stage 1"

    def complete(self, version: str, options: SiimOptions) -> dict[str, int]:
        return {"images": 12_047}

    def records(self, root: Path, options: SiimOptions) -> list[Record]:
        folder = root / "dicom-images-train"
        files = {p.stem: p for p in sorted(folder.rglob("*.dcm"))}
        table = read_table(root / "train-rle.csv", _COLUMNS)
        codes: dict[str, list[str]] = {}
        for image, code in zip(table.ImageId.str.strip(), table.EncodedPixels.fillna("-1").str.strip(), strict=True):
            codes.setdefault(image, []).append(code)
        records = []
        for image in sorted(codes):
            path = files.get(image, folder / f"{image}.dcm")
            runs = tuple(c for c in codes[image] if c != "-1")
            patient = image
            if options.patient_from_dicom and path.is_file():
                patient = str(dicom_header(path).get("PatientID") or image)
            records.append(Record(path, image, patient, image, labels={"Pneumothorax": float(bool(runs))}, mask=runs))
        return records

    def annotation_rows(self, root: Path) -> list[str]:
        """ImageId of every row of the table, in its order: published split scripts split these rows, not images."""
        return read_table(root / "train-rle.csv", _COLUMNS).ImageId.str.strip().tolist()

    def load_image(self, record: Record) -> np.ndarray:
        return read_dicom(record.path)

    def load_mask(self, record: Record) -> np.ndarray:
        width, height = dicom_size(record.path)
        return decode_all(record.mask, height, width)


READER = Siim()
