"""Indiana University chest X-rays (Open-i): XML reports and PNG images."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mlip.data.formats.files import name_fault, need_folder, read_grey, unreadable, walk_files
from mlip.data.records import Reader, ReaderOptions, Record
from mlip.errors import UserError

# What the coders of the collection write (a MeSH heading, then places and degrees after `/`) and the project's name of it:
# CheXpert's, or NIH's where CheXpert has none. A code counts where its heading is the first and, where there is one, the
# second is among its other words. docs/datasets.md has the table with its counts.
_CODES = (
    ("normal", "", "No Finding"),
    ("Cardiomegaly", "", "Cardiomegaly"),
    ("Cardiac Shadow", "enlarged", "Cardiomegaly"),
    ("Opacity", "lung", "Lung Opacity"),
    ("Airspace Disease", "", "Lung Opacity"),
    ("Nodule", "", "Lung Lesion"),
    ("Mass", "", "Lung Lesion"),
    ("Pulmonary Edema", "", "Edema"),
    ("Consolidation", "", "Consolidation"),
    ("Pneumonia", "", "Pneumonia"),
    ("Pulmonary Atelectasis", "", "Atelectasis"),
    ("Pneumothorax", "", "Pneumothorax"),
    ("Hydropneumothorax", "", "Pneumothorax"),
    ("Hemopneumothorax", "", "Pneumothorax"),
    ("Pleural Effusion", "", "Pleural Effusion"),
    ("Hydropneumothorax", "", "Pleural Effusion"),
    ("Hemopneumothorax", "", "Pleural Effusion"),
    ("Hemothorax", "", "Pleural Effusion"),
    ("Fractures, Bone", "", "Fracture"),
    ("Catheters, Indwelling", "", "Support Devices"),
    ("Implanted Medical Device", "", "Support Devices"),
    ("Medical Device", "", "Support Devices"),
    ("Tube, Inserted", "", "Support Devices"),
    ("Infiltrate", "", "Infiltration"),
    ("Mass", "", "Mass"),
    ("Nodule", "", "Nodule"),
    ("Emphysema", "", "Emphysema"),
    ("Pulmonary Emphysema", "", "Emphysema"),
    ("Bullous Emphysema", "", "Emphysema"),
    ("Pulmonary Fibrosis", "", "Fibrosis"),
    ("Fibrosis", "", "Fibrosis"),
    ("Thickening", "pleura", "Pleural Thickening"),
    ("Hernia, Hiatal", "", "Hernia"),
    ("Hernia, Diaphragmatic", "", "Hernia"),
)
_UNCODED = "no indexing"  # the coders could not code the report


class IuXray(Reader):
    title = "Indiana University chest X-rays (Open-i)"
    citation = (
        "Demner-Fushman et al., Preparing a collection of radiology examinations for distribution and retrieval, "
        "Journal of the American Medical Informatics Association 23(2), 2016"
    )
    access = "https://openi.nlm.nih.gov/faq"
    layout = "ecgen-radiology/*.xml (NLMCXR_reports.tgz), NLMCXR_png/*.png (NLMCXR_png.tgz)"
    versions = ("NLMCXR",)
    uncertainty = "none: a finding that is not coded is negative; a report without codes is NaN"
    labels = tuple(dict.fromkeys(finding for _, _, finding in _CODES))

    def check(self, root: Path, options: ReaderOptions) -> str:
        need_folder(root)
        if (root / "indiana_reports.csv").is_file():
            raise UserError(
                "is a copy in tables (indiana_reports.csv), supported is Open-i's own release",
                where=root,
                fix="obtain NLMCXR_reports.tgz and NLMCXR_png.tgz",
            )
        need_folder(root / "NLMCXR_png", fix="unpack NLMCXR_png.tgz there")
        reports = need_folder(root / "ecgen-radiology", fix="unpack NLMCXR_reports.tgz there")
        if next(walk_files(reports, ".xml"), None) is None:
            raise UserError("holds no .xml report", where=reports, fix="unpack NLMCXR_reports.tgz there")
        return "NLMCXR"

    def complete(self, version: str, options: ReaderOptions) -> dict[str, int]:
        return {"images": 7_470}

    def records(self, root: Path, options: ReaderOptions) -> list[Record]:
        """All images that a report names; the collection does not say which view each one is."""
        records = []
        for path in self.tables(root, options):
            try:
                tree = ElementTree.parse(path)
            except (ElementTree.ParseError, LookupError, ValueError, OSError) as error:  # also of an unknown encoding
                raise unreadable(path, error) from None
            sections = {e.get("Label", ""): (e.text or "").strip() for e in tree.iter("AbstractText")}
            report = "\n".join(f"{k}: {sections[k]}" for k in ("FINDINGS", "IMPRESSION") if sections.get(k))
            labels = findings([code.text or "" for code in tree.iterfind(".//MeSH/major")])
            for image in tree.iter("parentImage"):
                name = (image.get("id") or "").strip()
                if name_fault(name):
                    raise UserError(
                        "has a parentImage whose id names no film", where=path, fix="unpack the reports again"
                    )
                film = root / "NLMCXR_png" / f"{name}.png"
                records.append(Record(film, name, path.stem, path.stem, labels=labels, report=report))
        return records

    def tables(self, root: Path, options: ReaderOptions) -> list[Path]:
        """The reports themselves: there is no other table."""
        return sorted(walk_files(root / "ecgen-radiology", ".xml"), key=lambda p: (len(p.stem), p.stem))

    def load_image(self, record: Record) -> np.ndarray:
        return read_grey(record.path)


def findings(codes: list[str]) -> dict[str, float]:
    """Labels of a report by its coders' words, e.g. ``["Pleural Effusion/left/small", "Opacity/lung/base"]``.

    1 where a code says so, else 0; NaN for all where the report was not coded.
    """
    words = [[word.strip().casefold() for word in code.split("/")] for code in codes if code.strip()]
    if not words or any(heading == _UNCODED for heading, *_ in words):
        return dict.fromkeys(IuXray.labels, float("nan"))
    found = {
        finding
        for heading, other, finding in _CODES
        for first, *more in words
        if first == heading.casefold() and (not other or other in more)
    }
    return {label: float(label in found) for label in IuXray.labels}


READER = IuXray()
