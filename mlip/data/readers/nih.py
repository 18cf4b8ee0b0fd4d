"""NIH ChestX-ray14."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from mlip.data.formats.files import image_size, need_file, need_folder, read_grey, read_lines, read_table
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
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "View Position")
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
        version, path = self._table(root)
        read_table(path, _COLUMNS, rows=1)
        if not self._folders(root):
            raise UserError("holds neither images/ nor images_001/images/", where=root, fix="unpack the images there")
        return version

    def complete(self, version: str, options: NihOptions) -> dict[str, int]:
        return {"images": 112_120, "patients": 30_805}

    def records(self, root: Path, options: NihOptions) -> list[Record]:
        path = self._table(root)[1]
        table = read_table(path, _COLUMNS)
        files = {p.name: p for folder in self._folders(root) for p in sorted(folder.glob("*.png"))}
        # Only part of the corpus may be unpacked; rows of files that were never unpacked are not corrupt images.
        table = table[table["Image Index"].isin(files.keys())]
        boxes = self._boxes(root, files)
        test, train = set(read_lines(root / "test_list.txt")), set(read_lines(root / "train_val_list.txt"))
        records = []
        for row, name, found, patient, view in table[list(_COLUMNS)].itertuples():
            present = self._present(path, row + 2, found)
            records.append(
                Record(
                    path=files[name],
                    image_id=name,
                    patient_id=patient,
                    study_id=name.removesuffix(".png"),
                    view="" if pd.isna(view) else view,
                    official_split="test" if name in test else "train" if name in train else "",
                    labels={label: float(label in present) for label in self.labels},
                    boxes=tuple(boxes.get(name, ())),
                    report=templated_caption(present) if options.templated_captions else "",
                )
            )
        return records

    def load_image(self, record: Record) -> np.ndarray:
        return read_grey(record.path)

    def notes(self, root: Path, options: NihOptions) -> list[str]:
        """What the manifest should say about these options."""
        return (
            ["reports are TEMPLATED captions made from the labels, not radiologists' text"]
            if options.templated_captions
            else []
        )

    def _table(self, root: Path) -> tuple[str, Path]:
        need_folder(root)
        old, new = root / "Data_Entry_2017.csv", root / "Data_Entry_2017_v2020.csv"
        return ("v2020", new) if new.is_file() else ("2017", need_file(old))

    @staticmethod
    def _folders(root: Path) -> list[Path]:
        return [p for p in (root / "images", *sorted(root.glob("images_0*/images"))) if p.is_dir()]

    @staticmethod
    def _present(path: Path, line: int, found: str) -> set[str]:
        try:
            return {_NAMES[part] for part in found.split("|")}
        except KeyError as error:
            raise UserError(
                f"line {line} has the unknown finding {error}", where=path, fix="use the official table"
            ) from None

    @staticmethod
    def _boxes(root: Path, files: dict[str, Path]) -> dict[str, list[Box]]:
        """Boxes by file name, scaled from the official 1024 px to the size of the file that is here."""
        boxes: dict[str, list[Box]] = {}
        path = root / "BBox_List_2017.csv"
        if not path.is_file():
            return boxes
        table = read_table(path, ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"))
        for name, finding, *corner in table.iloc[:, :6].itertuples(index=False):
            if name not in files:
                continue
            category = _NAMES["Infiltration" if finding == "Infiltrate" else finding]
            width, height = image_size(files[name])
            x, y, w, h = (float(v) / _BOX_SIDE for v in corner)
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
