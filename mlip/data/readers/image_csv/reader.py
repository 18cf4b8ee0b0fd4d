"""The reader of films of one's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from mlip.data.formats.dicom import dicom_size, is_dicom, read_dicom
from mlip.data.formats.files import existing, image_size, need_folder, probe_jpeg, read_grey, read_mask
from mlip.data.readers.image_csv.beside import boxes_of, masks_of, texts_of
from mlip.data.readers.image_csv.cells import Cells
from mlip.data.readers.image_csv.options import ImageCsvOptions
from mlip.data.readers.image_csv.places import FILMS, NONE, Places, Row
from mlip.data.records import Reader, Record
from mlip.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OwnRecord(Record):
    """A film and the line of the table that it stands in."""

    line: int = 0
    table: str = ""


class ImageCsv(Reader):
    title = "Films and a table"
    citation = "data of the study's holder, unpublished"
    access = "your own; docs/own-data.md"
    layout = "a csv of one row a film, films anywhere below root (PNG, JPEG, TIFF, DICOM), as `options` says"
    versions = ("1",)
    uncertainty = "as `options.uncertain` and `options.missing` say"
    own = True
    credentialed = True
    Options = ImageCsvOptions

    def configured(self, options: ImageCsvOptions) -> ImageCsv:
        reader = copy.copy(self)
        reader.title = options.title or f"Films of {options.table}"
        reader.citation = options.citation
        kept = {"keep": "kept raw (-1), the target of a task decides"}.get(options.uncertain, options.uncertain)
        reader.uncertainty = f"uncertain: {kept}; empty cells: {options.missing}"
        reader.labels = options.label_names
        reader.box_categories = tuple(options.boxes.categories) if options.boxes else ()
        reader.mask_name = options.masks.name if options.masks else ""
        reader.black_masks_are_empty = bool(options.masks and options.masks.black == "empty")
        reader.reports = bool(options.text or options.text_file)
        return reader

    def check(self, root: Path, options: ImageCsvOptions) -> str:
        """Everything but the content of films, masks and texts is looked at: what is wrong in a row is known before a run."""
        self.records(root, options, read_texts=False)
        return "1"

    def tables(self, root: Path, options: ImageCsvOptions) -> list[Path]:
        boxes = [root / options.boxes.table] if options.boxes and options.boxes.table else []
        return existing(root / options.table, *boxes)

    def notes(self, root: Path, options: ImageCsvOptions) -> list[str]:
        """How many rows were left out."""
        if options.absent_films == "error":
            return []
        cells = self._cells(root, options)
        absent = len(cells.table) - len(self._rows(cells, root, options))
        return [f"{absent:,} of {len(cells.table):,} films of the table are not there: left out"] * bool(absent)

    def records(self, root: Path, options: ImageCsvOptions, read_texts: bool = True) -> list[Record]:
        cells = self._cells(root, options)
        rows = self._rows(cells, root, options)
        patients = cells.words(options.patient, "patient")
        studies = cells.words(options.study, "study") if options.study else None
        views = [view.upper() for view in cells.words(options.view)] if options.view else None
        parts, sexes, ages = cells.parts(options.split, patients), cells.sexes(options.sex), cells.ages(options.age)
        labels = {name: values.tolist() for name, values in cells.labels(options).items()}
        texts = texts_of(cells, root, options, rows, read_texts)
        masks, boxes = masks_of(cells, root, options.masks, rows), boxes_of(cells, root, options, rows)
        return [
            OwnRecord(
                path=row.path,
                image_id=row.image_id,
                patient_id=patients[n],
                study_id=studies[n] if studies else row.image_id,
                view=views[n] if views else "",
                sex=sexes[n],
                age=ages[n],
                official_split=parts[n],
                labels={name: values[n] for name, values in labels.items()},
                boxes=tuple(boxes.get(row.image_id, ())),
                boxes_listed=row.image_id in boxes or options.boxes is None or options.boxes.unlisted == "negative",
                report=texts.get(n, ""),
                mask=masks.get(n),
                line=cells.lines[n],
                table=options.table,
            )
            for row in rows
            for n in (row.number,)
        ]

    def load_image(self, record: Record) -> np.ndarray:
        return self._said_where(record, lambda: (read_dicom if is_dicom(record.path) else read_grey)(record.path))

    def probe(self, record: Record) -> bool:
        jpeg = record.path.suffix.lower() in (".jpg", ".jpeg")
        return self._said_where(record, lambda: probe_jpeg(record.path)) if jpeg else super().probe(record)

    def load_mask(self, record: Record) -> np.ndarray | None:
        if record.mask is None:
            return None
        if not record.mask:
            width, height = (dicom_size if is_dicom(record.path) else image_size)(record.path)
            return np.zeros((height, width), np.uint8)
        return self._said_where(record, lambda: read_mask(record.mask))

    @staticmethod
    def _said_where(record: Record, read: Callable[[], T]) -> T:
        """What is wrong with a file, with the line of the table that names it."""
        try:
            return read()
        except UserError as error:
            line = f" ({record.table}, line {record.line})" if isinstance(record, OwnRecord) else ""
            raise UserError(
                f"{error.problem}{line}", where=error.where, fix="replace the file, or take that line out"
            ) from None

    # --- the table ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _cells(root: Path, options: ImageCsvOptions) -> Cells:
        need_folder(root)
        one = (options.image, options.patient, options.study, options.view, options.sex, options.age, options.split)
        named = [
            cell.column
            for cell in (*one, options.text, options.text_file, options.masks and options.masks.file)
            if cell
        ]
        named += [column.column for column in options.labels.values()]
        named += [options.findings.column] if options.findings else []
        if options.boxes and not options.boxes.table:
            named += [name for name in (*options.boxes.corner, options.boxes.category) if name]
        return Cells.read(root / options.table, named)

    @staticmethod
    def _rows(cells: Cells, root: Path, options: ImageCsvOptions) -> list[Row]:
        folder = need_folder(root / options.folder, fix="correct options.folder")
        masks = [root / options.masks.folder] if options.masks and options.masks.folder else []
        places = Places(folder, FILMS, masks)
        rows: list[Row] = []
        lines_of_film: dict[Path, int] = {}
        for number, name in enumerate(cells.words(options.image, "image")):
            found = places.find(name)
            if found == NONE and options.absent_films == "leave_out":
                continue
            if isinstance(found, str):
                raise cells.error(
                    number,
                    f"{options.image.column!r} {found} below {folder.name!r}",
                    "write the film's path below that folder; or set options.folder, or options.absent_films: leave_out",
                )
            if found in lines_of_film:
                raise cells.error(
                    number,
                    f"{options.image.column!r} is the same film as in line {lines_of_film[found]}",
                    "keep one row a film",
                )
            lines_of_film[found] = cells.lines[number]
            rows.append(Row(number, name.replace("\\", "/").strip("/"), found))
        return rows
