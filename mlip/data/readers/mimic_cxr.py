"""MIMIC-CXR-JPG 2.0.0 and 2.1.0 with MIMIC-CXR's free-text reports."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from pydantic import Field, field_validator

from mlip.data.formats.files import existing, need_file, need_folder, probe_jpeg, read_grey
from mlip.data.formats.tables import EMPTY, Column, read_table
from mlip.data.labels import CHEXPERT_LABELS, label_table
from mlip.data.records import Reader, ReaderOptions, Record
from mlip.errors import UserError

_METADATA = re.compile(r"mimic-cxr-(\d+\.\d+\.\d+)-metadata\.csv(\.gz)?$")
_ORDER = tuple(sorted(CHEXPERT_LABELS))  # of the label columns in MIMIC's table
_COLUMNS = {
    "metadata": (
        Column("dicom_id", "id", unique=True),
        Column("subject_id", "id", pattern=r"\d+", form="a whole number"),
        Column("study_id", "id", pattern=r"\d+", form="a whole number"),
        Column("ViewPosition", "category", optional=True),
    ),
    "split": (Column("dicom_id", "id", unique=True), Column("split", "category", words=("train", "validate", "test"))),
    "chexpert": (Column("study_id", "id", unique=True, pattern=r"\d+", form="a whole number"),),
}


class MimicOptions(ReaderOptions):
    views: list[str] = Field(
        ["PA", "AP"], min_length=1, description="ViewPosition values that are kept; '' keeps films that have none"
    )
    reports_root: Path | None = Field(None, description="folder that holds files/pXX/... of the reports, default: root")

    @field_validator("views")
    @classmethod
    def _as_cells(cls, views: list[str]) -> list[str]:
        """As the table's cells are read: in capitals, "" for a missing value."""
        return ["" if view.strip() in EMPTY else view.strip().upper() for view in views]


class MimicCxr(Reader):
    title = "MIMIC-CXR-JPG"
    citation = (
        "Johnson et al., MIMIC-CXR, a de-identified publicly available database of chest radiographs with free-text "
        "reports, Scientific Data 6:317, 2019; Johnson et al., MIMIC-CXR-JPG, arXiv:1901.07042"
    )
    access = (
        "https://physionet.org/content/mimic-cxr-jpg/ and, for the reports, https://physionet.org/content/mimic-cxr/"
    )
    layout = (
        "mimic-cxr-2.0.0-{metadata,split,chexpert}.csv[.gz]; files/pXX/pXXXXXXXX/sYYYYYYYY/<dicom_id>.jpg; "
        "files/pXX/pXXXXXXXX/sYYYYYYYY.txt (here or under options.reports_root)"
    )
    versions = ("2.0.0", "2.1.0")
    uncertainty = "kept raw (1, 0, -1, NaN = not mentioned); the protocol of a task decides"
    labels = CHEXPERT_LABELS
    credentialed = True
    Options = MimicOptions

    def check(self, root: Path, options: MimicOptions) -> str:
        version, tables = self._tables(root)
        label_table(tables["chexpert"], _COLUMNS["chexpert"], _ORDER, rows=1)
        for kind in ("metadata", "split"):
            read_table(tables[kind], _COLUMNS[kind], rows=1)
        need_folder(root / "files", fix="unpack the images there")
        base, path = self._reports(root, options), tables["metadata"]
        # A few rows first; of a part of the corpus the first reports may not be there.
        for rows in (100, None):
            table = read_table(path, _COLUMNS["metadata"], rows)
            if any(
                os.path.exists(f"{base}/{_study(*ids)}.txt")
                for ids in zip(table.subject_id, table.study_id, strict=True)
            ):
                break
        else:
            if table.empty:
                raise UserError("holds no rows", where=path, fix="download it again")
            raise UserError(
                f"holds no report of any of the {table.study_id.nunique():,} studies of the metadata table (the JPG "
                "distribution comes without reports)",
                where=base,
                fix="unpack mimic-cxr-reports.zip and set options.reports_root to the folder that holds files/",
            )
        return version

    def complete(self, version: str, options: MimicOptions) -> dict[str, int]:
        return {"images": 243_334} if set(options.views) == {"PA", "AP"} else {}

    def records(self, root: Path, options: MimicOptions) -> list[Record]:
        _, tables = self._tables(root)
        meta = read_table(tables["metadata"], _COLUMNS["metadata"])
        split = read_table(tables["split"], _COLUMNS["split"])
        part_of = dict(zip(split.dicom_id.tolist(), split["split"].tolist(), strict=True))
        findings = label_table(tables["chexpert"], _COLUMNS["chexpert"], _ORDER)
        values = dict(zip(findings.study_id.tolist(), findings[list(CHEXPERT_LABELS)].to_numpy().tolist(), strict=True))
        unknown = [float("nan")] * len(CHEXPERT_LABELS)
        meta = meta.sort_values(["subject_id", "study_id", "dicom_id"])
        chosen = meta[meta.ViewPosition.isin(options.views)]
        if chosen.empty:
            raise UserError(
                f"no film has a view of options.views ({', '.join(map(repr, options.views))})",
                where=tables["metadata"],
                fix=f"its views are {', '.join(f'{v!r}' for v in meta.ViewPosition.value_counts().index)}",
            )
        # Only some patients may be unpacked; rows of those that never were are not missing films.
        meta = chosen[chosen.subject_id.isin(self._unpacked(root))]
        if meta.empty:
            raise UserError("holds no patient of the table", where=root / "files", fix="unpack the images there")
        base = self._reports(root, options)
        study_of, report = "", ""
        records = []
        columns = ("dicom_id", "subject_id", "study_id", "ViewPosition")
        for dicom, subject, study, view in zip(*(meta[name].tolist() for name in columns), strict=True):
            folder = _study(subject, study)
            if study != study_of:  # films of a study are neighbours
                study_of, report = study, _read_report(f"{base}/{folder}.txt")
            records.append(
                Record(
                    path=Path(f"{root}/files/{folder}/{dicom}.jpg"),
                    image_id=dicom,
                    patient_id=subject,
                    study_id=study,
                    view=view,
                    official_split=part_of.get(dicom, ""),
                    labels=dict(zip(CHEXPERT_LABELS, values.get(study, unknown), strict=True)),
                    report=report,
                )
            )
        return records

    def notes(self, root: Path, options: MimicOptions) -> list[str]:
        """How many patients of the table are not there."""
        subjects = read_table(self._tables(root)[1]["metadata"], _COLUMNS["metadata"][1:2]).subject_id.unique()
        absent = len(set(subjects) - self._unpacked(root))
        return [f"{absent:,} of {len(subjects):,} patients of the table are not unpacked: left out"] * bool(absent)

    def tables(self, root: Path, options: MimicOptions) -> list[Path]:
        try:
            return existing(*self._tables(root)[1].values())
        except UserError:
            return []

    def load_image(self, record: Record) -> np.ndarray:
        return read_grey(record.path)

    def probe(self, record: Record) -> bool:
        return probe_jpeg(record.path)

    def _tables(self, root: Path) -> tuple[str, dict[str, Path]]:
        need_folder(root)
        found = sorted(m.group(1) for p in root.iterdir() if (m := _METADATA.match(p.name)))
        if not found:
            need_file(root / "mimic-cxr-2.0.0-metadata.csv.gz", root / "mimic-cxr-2.0.0-metadata.csv")
        prefix = found[-1]
        if prefix not in self.versions:
            raise UserError(
                f"is version {prefix}, supported are {', '.join(self.versions)}",
                where=root,
                fix="obtain a supported version",
            )
        tables = {
            kind: need_file(*(root / f"mimic-cxr-{prefix}-{kind}.csv{gz}" for gz in (".gz", ""))) for kind in _COLUMNS
        }
        # Release 2.1.0 kept the 2.0.0 in the names of these tables; what it added is the labelled test set.
        newer = any(root.glob("mimic-cxr-2.1.0-*"))
        return ("2.1.0" if newer else prefix), tables

    @staticmethod
    def _unpacked(root: Path) -> set[str]:
        """Subjects that have a folder files/pXX/pXXXXXXXX."""
        groups = [entry.path for entry in os.scandir(root / "files") if entry.name.startswith("p") and entry.is_dir()]
        return {entry.name[1:] for group in groups for entry in os.scandir(group) if entry.name.startswith("p")}

    @staticmethod
    def _reports(root: Path, options: MimicOptions) -> Path:
        """The folder of the reports' p10, p11, ..."""
        base = options.reports_root or root
        return base / "files" if (base / "files").is_dir() else base


def _study(subject: str, study: str) -> str:
    """A study's place below files/; its report is the .txt of that name."""
    return f"p{subject[:2]}/p{subject}/s{study}"


def _read_report(path: str) -> str:
    """The report, or "" where the study has none: the doctor counts them."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        return ""


READER = MimicCxr()
