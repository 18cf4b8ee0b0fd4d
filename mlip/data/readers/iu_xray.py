"""Indiana University chest X-rays (Open-i): XML reports and PNG images."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mlip.data.formats.files import name_fault, need_folder, read_grey, unreadable, walk_files
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
            for image in tree.iter("parentImage"):
                name = (image.get("id") or "").strip()
                if name_fault(name):
                    raise UserError(
                        "has a parentImage whose id names no film", where=path, fix="unpack the reports again"
                    )
                records.append(Record(root / "NLMCXR_png" / f"{name}.png", name, path.stem, path.stem, report=report))
        return records

    def tables(self, root: Path, options: ReaderOptions) -> list[Path]:
        """The reports themselves: there is no other table."""
        return sorted(walk_files(root / "ecgen-radiology", ".xml"), key=lambda p: (len(p.stem), p.stem))

    def load_image(self, record: Record) -> np.ndarray:
        return read_grey(record.path)


READER = IuXray()
