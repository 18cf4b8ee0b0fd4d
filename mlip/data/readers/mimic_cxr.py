"""MIMIC-CXR-JPG 2.0.0 and 2.1.0 with MIMIC-CXR's free-text reports."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from pydantic import Field

from mlip.data.formats.files import need_file, need_folder, probe_jpeg, read_grey, read_table
from mlip.data.labels import CHEXPERT_LABELS, label_values
from mlip.data.records import Reader, ReaderOptions, Record
from mlip.errors import UserError

_METADATA = re.compile(r"mimic-cxr-(\d+\.\d+\.\d+)-metadata\.csv(\.gz)?$")
_COLUMNS = {
    "metadata": ("dicom_id", "subject_id", "study_id", "ViewPosition"),
    "split": ("dicom_id", "split"),
    "chexpert": ("study_id", *CHEXPERT_LABELS),
}


class MimicOptions(ReaderOptions):
    views: list[str] = Field(["PA", "AP"], min_length=1, description="ViewPosition values that are kept")
    reports_root: Path | None = Field(None, description="folder that holds files/pXX/... of the reports, default: root")


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
    Options = MimicOptions

    def check(self, root: Path, options: MimicOptions) -> str:
        version, tables = self._tables(root)
        for kind, path in tables.items():
            read_table(path, _COLUMNS[kind], rows=1)
        first = read_table(tables["metadata"], _COLUMNS["metadata"], rows=1)
        if first.empty:
            raise UserError("holds no rows", where=tables["metadata"], fix="download it again")
        base, subject = self._reports(root, options), first.subject_id[0]
        if not (base / f"p{subject[:2]}" / f"p{subject}" / f"s{first.study_id[0]}.txt").is_file():
            raise UserError(
                "holds no report of the first study of the metadata table (the JPG distribution comes without reports)",
                where=base,
                fix="unpack mimic-cxr-reports.zip and set options.reports_root to the folder that holds files/",
            )
        return version

    def complete(self, version: str, options: MimicOptions) -> dict[str, int]:
        return {"images": 243_334} if set(options.views) == {"PA", "AP"} else {}

    def records(self, root: Path, options: MimicOptions) -> list[Record]:
        _, tables = self._tables(root)
        meta = read_table(tables["metadata"], _COLUMNS["metadata"])
        split = read_table(tables["split"], _COLUMNS["split"]).set_index("dicom_id")["split"]
        findings = read_table(tables["chexpert"], _COLUMNS["chexpert"])
        # MIMIC's table has the labels in alphabetical order.
        known = label_values(findings, tables["chexpert"], tuple(sorted(CHEXPERT_LABELS))).tolist()
        values = dict(zip(findings.study_id, known, strict=True))
        unknown = [float("nan")] * len(CHEXPERT_LABELS)
        meta = meta[meta.ViewPosition.isin(options.views)].sort_values(["subject_id", "study_id", "dicom_id"])
        parts = split.reindex(meta.dicom_id).fillna("").tolist()
        base = self._reports(root, options)
        study_of, report = "", ""
        records = []
        for dicom, subject, study, view, part in zip(
            meta.dicom_id, meta.subject_id, meta.study_id, meta.ViewPosition, parts, strict=True
        ):
            folder = f"p{subject[:2]}/p{subject}/s{study}"
            if study != study_of:  # films of a study are neighbours
                study_of, report = study, _read_report(f"{base}/{folder}.txt")
            records.append(
                Record(
                    path=Path(f"{root}/files/{folder}/{dicom}.jpg"),
                    image_id=dicom,
                    patient_id=subject,
                    study_id=study,
                    view=view,
                    official_split=part,
                    labels=dict(zip(CHEXPERT_LABELS, values.get(study, unknown), strict=True)),
                    report=report,
                )
            )
        return records

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
    def _reports(root: Path, options: MimicOptions) -> Path:
        """The folder of the reports' p10, p11, ..."""
        base = options.reports_root or root
        return base / "files" if (base / "files").is_dir() else base


def _read_report(path: str) -> str:
    """The report, or "" where the study has none: the doctor counts them."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


READER = MimicCxr()
