"""The public COVID-19 image data collection (covid-chestxray-dataset)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from mlip.data.formats.files import existing, need_file, need_folder, read_grey, read_mask, walk_files
from mlip.data.formats.people import people_of, person_columns
from mlip.data.formats.tables import Column, present, read_table
from mlip.data.records import Box, Reader, ReaderOptions, Record
from mlip.errors import UserError

_COLUMNS = (
    Column("patientid", "id"),
    Column("finding"),
    Column("view", "category", words=("PA", "AP", "AP Supine", "AP Erect")),
    Column("modality", "category", words=("X-ray",)),
    Column("folder", "path"),
    Column("filename", "id", unique=True),
    Column("clinical_notes"),
)
# Older tables name the pathogen alone; the collection's later hierarchy files each of these under Pneumonia.
_PATHOGENS = (
    "COVID-19", "SARS", "MERS-CoV", "Varicella", "Influenza", "Herpes", "H1N1", "Streptococcus", "Klebsiella", "Chlamydophila",
    "Legionella", "E.Coli", "Mycoplasma", "Nocardia", "Staphylococcus", "MRSA", "Pneumocystis", "Aspergillosis", "Lipoid",
    "Aspiration", "Bacterial", "Viral", "Fungal",
)  # fmt: skip


class CovidChestxrayOptions(ReaderOptions):
    only: Literal["all", "with_notes", "with_masks", "with_boxes", "labelled"] = Field(
        "all", description="which films to keep"
    )


class CovidChestxray(Reader):
    title = "COVID-19 image data collection"
    citation = "Cohen et al., COVID-19 image data collection: prospective predictions are the future, MELBA 2020:18272"
    access = "https://github.com/ieee8023/covid-chestxray-dataset"
    layout = (
        "metadata.csv, images/, optional annotations/annotations.json (COCO lung boxes) and masks/<stem>.png (lungs)"
    )
    versions = ("2020",)
    uncertainty = "finding todo and Unknown is NaN; ARDS alone leaves Pneumonia NaN"
    labels = ("COVID-19", "Pneumonia")
    box_categories = ("Right Lung", "Left Lung")
    mask_name = "Lungs"
    Options = CovidChestxrayOptions

    def check(self, root: Path, options: CovidChestxrayOptions) -> str:
        need_folder(root)
        read_table(root / "metadata.csv", _COLUMNS, rows=1, keep=_frontal)
        need_folder(root / "images", fix="clone the data set there")
        if options.only == "with_boxes":
            need_file(root / "annotations" / "annotations.json")
        if options.only == "with_masks":
            need_folder(root / "masks", fix="add the lung masks, or do not ask for them")
        return "2020"

    def records(self, root: Path, options: CovidChestxrayOptions) -> list[Record]:
        path = root / "metadata.csv"
        table = read_table(path, (*_COLUMNS, *present(path, person_columns("sex", "age"))), keep=_frontal)
        boxes = self._boxes(root)
        masks = {p.stem: p for p in walk_files(root / "masks", ".png")}
        records = []
        rows = table[[c.name for c in _COLUMNS]].itertuples(index=False)
        people = people_of(table, "sex", "age")
        for (patient, finding, view, _, folder, name, notes), (sex, age) in zip(rows, people, strict=True):
            record = Record(
                path=root / folder / name,
                image_id=name,
                patient_id=patient,
                study_id=name,
                view=view,
                sex=sex,
                age=age,
                labels=findings(finding),
                boxes=tuple(boxes.get(name, ())),
                report=notes,
                mask=masks.get(Path(name).stem),
            )
            if _kept(record, options.only):
                records.append(record)
        return records

    def tables(self, root: Path, options: CovidChestxrayOptions) -> list[Path]:
        return existing(root / "metadata.csv", root / "annotations" / "annotations.json")

    def load_image(self, record: Record) -> np.ndarray:
        return read_grey(record.path)

    def load_mask(self, record: Record) -> np.ndarray | None:
        return None if record.mask is None else read_mask(record.mask)

    def _boxes(self, root: Path) -> dict[str, list[Box]]:
        path = root / "annotations" / "annotations.json"
        if not path.is_file():
            return {}
        try:
            coco = json.loads(path.read_text(encoding="utf-8-sig"))
            names = {i["id"]: i["file_name"] for i in coco["images"]}
            categories = {c["id"]: c["name"] for c in coco["categories"]}
            boxes: dict[str, list[Box]] = {}
            for a in coco["annotations"]:
                x, y, width, height = map(float, a["bbox"])
                if not np.isfinite((x, y, width, height)).all():
                    raise ValueError("a box is not finite")
                if (category := categories[a["category_id"]]) in self.box_categories:
                    boxes.setdefault(names[a["image_id"]], []).append(Box(x, y, width, height, category))
            return boxes
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"is no COCO annotation ({type(error).__name__}: {error})", where=path, fix="download it again"
            ) from None


def _frontal(cells: pd.DataFrame) -> pd.Series:
    """Rows of frontal X-ray films: the others, CT and lateral films and rows that do not say, are not read."""
    view, modality = ([word.casefold() for word in column.words] for column in _COLUMNS[2:4])
    return cells["view"].str.casefold().isin(view) & cells["modality"].str.casefold().isin(modality)


def findings(text: str) -> dict[str, float]:
    """Labels of the collection's ``finding`` cell, e.g. ``COVID-19, ARDS`` or ``Pneumonia/Viral/COVID-19``."""
    text = text.strip().casefold()
    if text in ("todo", "unknown", ""):
        return {"COVID-19": float("nan"), "Pneumonia": float("nan")}
    covid = "covid-19" in text
    pneumonia = "pneumonia" in text or any(p.casefold() in text for p in _PATHOGENS)
    # Respiratory distress mostly comes from pneumonia, but the cell does not say so.
    unsaid = text == "ards"
    return {"COVID-19": float(covid), "Pneumonia": float("nan") if unsaid else float(pneumonia)}


def _kept(record: Record, only: str) -> bool:
    return {
        "all": True,
        "with_notes": bool(record.report.strip()),
        "with_masks": record.mask is not None,
        "with_boxes": bool(record.boxes),
        "labelled": not np.isnan(record.labels["COVID-19"]),
    }[only]


READER = CovidChestxray()
