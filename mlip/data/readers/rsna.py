"""RSNA Pneumonia Detection Challenge, stage 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from mlip.data.formats.dicom import dicom_size, read_dicom
from mlip.data.formats.files import existing, need_folder
from mlip.data.formats.tables import Column, bad_row, read_table
from mlip.data.records import Box, Reader, ReaderOptions, Record
from mlip.data.targets import sound_boxes
from mlip.errors import UserError

_BOX = ("x", "y", "width", "height")
_COLUMNS = (
    Column("patientId", "id"),
    *(Column(name, "number", optional=True) for name in _BOX),
    Column("Target", "number", optional=True),  # checked below, beside the box
)


class RsnaOptions(ReaderOptions):
    test_labels: str | None = Field(
        None, description="a csv of the same columns for stage_2_test_images; those films become the official test part"
    )


class Rsna(Reader):
    title = "RSNA Pneumonia Detection Challenge (stage 2)"
    citation = (
        "Shih et al., Augmenting the National Institutes of Health chest radiograph dataset with expert annotations of "
        "possible pneumonia, Radiology: Artificial Intelligence 1(1), 2019"
    )
    access = "https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge"
    layout = "stage_2_train_labels.csv, stage_2_train_images/<patientId>.dcm"
    versions = ("stage 2",)
    uncertainty = "none: Target is 0 or 1"
    labels = ("Pneumonia",)
    box_categories = ("Pneumonia",)
    mask_name = "Pneumonia box"
    Options = RsnaOptions

    def check(self, root: Path, options: RsnaOptions) -> str:
        need_folder(root)
        if not (root / "stage_2_train_labels.csv").is_file() and (root / "stage_1_train_labels.csv").is_file():
            raise UserError("is stage 1, supported is stage 2", where=root, fix="download the stage 2 files")
        for table, folder in self._sources(root, options):
            read_table(table, _COLUMNS, rows=1)
            need_folder(folder, fix="unpack the images there")
        return "stage 2"

    def complete(self, version: str, options: RsnaOptions) -> dict[str, int]:
        return {} if options.test_labels else {"images": 26_684, "boxes": 9_555}

    def records(self, root: Path, options: RsnaOptions) -> list[Record]:
        records: list[Record] = []
        for (table, folder), part in zip(self._sources(root, options), ("train", "test"), strict=False):
            boxes: dict[str, list[Box]] = {}
            positive: dict[str, float] = {}
            rows = read_table(table, _COLUMNS)
            values = rows[[*_BOX, "Target"]].to_numpy(np.float64)
            given, target = ~np.isnan(values[:, :4]), values[:, 4]
            boxed = given.all(axis=1)
            if len(wrong := np.flatnonzero(~np.isin(target, (0, 1)) | (boxed & (target != 1)))):
                beside = f"Target is {target[wrong[0]]:g} beside {'a' if boxed[wrong[0]] else 'no'} box"
                raise bad_row(table, rows.index[wrong[0]], f"{beside}, it is 0 or 1, and 1 where there is a box")
            if len(wrong := np.flatnonzero(given.any(axis=1) & ~boxed)):
                raise bad_row(table, rows.index[wrong[0]], "a box has x, y, width and height, or none of them")
            for patient, row, has_box in zip(rows.patientId, values.tolist(), boxed, strict=True):
                mine = boxes.setdefault(patient, [])
                positive[patient] = max(positive.get(patient, 0.0), row[4])
                if has_box:
                    mine.append(Box(row[0], row[1], row[2], row[3], "Pneumonia"))
            for patient in sorted(boxes):  # sorted as the groupby of the published split scripts leaves them
                records.append(
                    Record(
                        path=folder / f"{patient}.dcm",
                        image_id=patient,
                        patient_id=patient,
                        study_id=patient,
                        official_split=part if options.test_labels else "",
                        labels={"Pneumonia": positive[patient]},
                        boxes=tuple(boxes[patient]),
                        mask=tuple(boxes[patient]),
                    )
                )
        return records

    def tables(self, root: Path, options: RsnaOptions) -> list[Path]:
        return existing(*(table for table, _ in self._sources(root, options)))

    def load_image(self, record: Record) -> np.ndarray:
        return read_dicom(record.path)

    def load_mask(self, record: Record) -> np.ndarray | None:
        """The filled boxes: the pixel target that the published segmentation protocols use. None for a film with the finding of
        which no sound box is known.
        """
        width, height = dicom_size(record.path)
        boxes, _ = sound_boxes(record.mask, (width, height))
        if not boxes and record.labels["Pneumonia"] == 1:
            return None
        mask = np.zeros((height, width), np.uint8)
        for box in boxes:
            mask[round(box.y) : round(box.y + box.height), round(box.x) : round(box.x + box.width)] = 1
        return mask

    @staticmethod
    def _sources(root: Path, options: RsnaOptions) -> list[tuple[Path, Path]]:
        sources = [(root / "stage_2_train_labels.csv", root / "stage_2_train_images")]
        if options.test_labels:
            sources.append((root / options.test_labels, root / "stage_2_test_images"))
        return sources


READER = Rsna()
