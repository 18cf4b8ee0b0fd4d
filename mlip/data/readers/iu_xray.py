"""Indiana University chest X-rays (Open-i): XML reports and PNG images."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mlip.data.formats.files import need_folder, read_grey, unreadable
from mlip.data.records import Reader, ReaderOptions, Record
from mlip.errors import UserError


class IuXray(Reader):
    title = "Indiana University chest X-rays (Open-i)"
    citation = (
        "Demner-Fushman et al., Preparing a collection of radiology examinations for distribution and retrieval, "
        "Journal of the American Medical Informatics Association 23(2), 2016"
    )
    access = "https://openi.nlm.nih.gov/faq"
    layout = "ecgen-radiology/*.xml (NLMCXR_reports.tgz), NLMCXR_png/*.png (NLMCXR_png.tgz)"
    versions = ("NLMCXR",)
    uncertainty = "no labels"

    def check(self, root: Path, options: ReaderOptions) -> str:
        need_folder(root)
        need_folder(root / "NLMCXR_png", fix="unpack NLMCXR_png.tgz there")
        reports = need_folder(root / "ecgen-radiology", fix="unpack NLMCXR_reports.tgz there")
        if next(reports.glob("*.xml"), None) is None:
            raise UserError("holds no .xml report", where=reports, fix="unpack NLMCXR_reports.tgz there")
        return "NLMCXR"

    def complete(self, version: str, options: ReaderOptions) -> dict[str, int]:
        return {"images": 7_470}

    def records(self, root: Path, options: ReaderOptions) -> list[Record]:
        """All images that a report names; the collection does not say which view each one is."""
        records = []
        for path in sorted((root / "ecgen-radiology").glob("*.xml"), key=lambda p: (len(p.stem), p.stem)):
            try:
                tree = ElementTree.parse(path)
            except ElementTree.ParseError as error:
                raise unreadable(path, error) from None
            sections = {e.get("Label", ""): (e.text or "").strip() for e in tree.iter("AbstractText")}
            report = "\n".join(f"{k}: {sections[k]}" for k in ("FINDINGS", "IMPRESSION") if sections.get(k))
            for image in tree.iter("parentImage"):
                name = str(image.get("id"))
                records.append(Record(root / "NLMCXR_png" / f"{name}.png", name, path.stem, path.stem, report=report))
        return records

    def load_image(self, record: Record) -> np.ndarray:
        return read_grey(record.path)


READER = IuXray()
