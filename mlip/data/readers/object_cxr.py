"""Object-CXR: foreign objects on chest radiographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlip.data.formats.files import existing, need_folder, probe_jpeg, read_grey
from mlip.data.formats.tables import Column, bad_row, read_table
from mlip.data.records import Box, Reader, ReaderOptions, Record

_COLUMNS = (Column("image_name", "id", unique=True), Column("annotation"))


class ObjectCxr(Reader):
    title = "Object-CXR"
    citation = "JF Healthcare, Object-CXR: automatic detection of foreign objects on chest X-rays, MIDL 2020 challenge"
    access = "https://web.archive.org/web/20201127235812/https://jfhealthcare.github.io/object-CXR/"
    layout = "train.csv, dev.csv (image_name, annotation), train/<image_name>, dev/<image_name>"
    versions = ("MIDL 2020",)
    uncertainty = "none"
    labels = ("Foreign object",)
    box_categories = ("Foreign object",)

    def check(self, root: Path, options: ReaderOptions) -> str:
        need_folder(root)
        for part in ("train", "dev"):
            read_table(root / f"{part}.csv", _COLUMNS, rows=1)
            need_folder(root / part, fix="unpack the images there")
        return "MIDL 2020"

    def complete(self, version: str, options: ReaderOptions) -> dict[str, int]:
        return {"images": 8_000 + 1_000}

    def records(self, root: Path, options: ReaderOptions) -> list[Record]:
        records = []
        for folder, part in (("train", "train"), ("dev", "test")):
            path = root / f"{folder}.csv"
            table = read_table(path, _COLUMNS)
            for row, name, annotation in table[["image_name", "annotation"]].itertuples():
                boxes = tuple(self._box(path, row, shape) for shape in annotation.split(";") if shape.strip())
                image = f"{folder}/{name}"
                records.append(
                    Record(root / image, image, image, image, "", part, {"Foreign object": float(bool(boxes))}, boxes)
                )
        return records

    def tables(self, root: Path, options: ReaderOptions) -> list[Path]:
        return existing(root / "train.csv", root / "dev.csv")

    def load_image(self, record: Record) -> np.ndarray:
        return read_grey(record.path)

    def probe(self, record: Record) -> bool:
        return probe_jpeg(record.path)

    @staticmethod
    def _box(path: Path, row: int, shape: str) -> Box:
        """Bounding box of ``0 x1 y1 x2 y2`` (rectangle), ``1 x1 y1 x2 y2`` (ellipse) or ``2 x1 y1 x2 y2 ...`` (polygon)."""
        try:
            kind, *numbers = (float(v) for v in shape.split())
            points = np.array(numbers).reshape(-1, 2)
            corners = len(points) == 2 if kind in (0, 1) else len(points) >= 2
            if kind not in (0, 1, 2) or not corners or not np.isfinite(points).all():
                raise ValueError
        except ValueError:
            raise bad_row(path, row, f"the annotation {shape[:40]!r} has an unknown shape") from None
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return Box(float(left), float(top), float(right - left), float(bottom - top), "Foreign object")


READER = ObjectCxr()
