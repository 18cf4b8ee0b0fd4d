"""What lies beside the films of a table: texts, masks and boxes, each found by row."""

from __future__ import annotations

from pathlib import Path

from mlip.data.formats.files import PICTURES, need_folder
from mlip.data.readers.image_csv.cells import Cells
from mlip.data.readers.image_csv.options import BoxTable, Cell, ImageCsvOptions, Masks
from mlip.data.readers.image_csv.places import FILMS, NONE, Places, Row
from mlip.data.records import Box


def texts_of(cells: Cells, root: Path, options: ImageCsvOptions, rows: list[Row], read: bool) -> dict[int, str]:
    """Reports by row; films without one are not in it, or have "". Without ``read`` no text file is opened.

    Raises
    ------
    UserError : a text file that the table names is not there (unless ``absent_texts`` says otherwise) or no UTF-8 text.
    """
    if options.text:
        as_written = not (options.text.pattern or options.text.words)
        return dict(enumerate(cells.table[options.text.column] if as_written else cells.words(options.text)))
    if options.text_file is None:
        return {}
    column, names = options.text_file.column, cells.words(options.text_file)
    places, texts = Places(root, (".txt",)), dict[int, str]()
    for number in (row.number for row in rows if names[row.number]):
        found = places.find(names[number])
        if found == NONE and options.absent_texts == "leave_out":
            continue
        if isinstance(found, str):
            fix = "complete the texts, empty the cell, or set options.absent_texts: leave_out"
            raise cells.error(number, f"{column!r} {found} below {root.name!r}", fix)
        try:
            texts[number] = found.read_text(encoding="utf-8-sig") if read else ""
        except (OSError, UnicodeError):
            raise cells.error(number, f"the text that {column!r} names cannot be read", "save it as UTF-8") from None
    return texts


def masks_of(cells: Cells, root: Path, masks: Masks | None, rows: list[Row]) -> dict[int, Path | tuple[()]]:
    """A mask's file, or () where it is known to be empty, by row; films without an entry have none that is known.

    Raises
    ------
    UserError : a mask that the table names is not there, or a film has several.
    """
    if masks is None:
        return {}
    places = Places(need_folder(root / masks.folder, fix="correct options.masks.folder"), PICTURES)
    films, names = Places(root, FILMS), cells.words(masks.file) if masks.file else []
    found: dict[int, Path | tuple[()]] = {}
    for row in rows:
        if masks.file:
            mask = places.find(names[row.number]) if names[row.number] else None
        else:
            mask = places.of_stem(films.stem(row.path))
        if isinstance(mask, str):
            column = repr(masks.file.column) if masks.file else f"{masks.folder}/"
            raise cells.error(row.number, f"the mask: {column} {mask}", "keep one mask a film")
        if mask is not None:
            found[row.number] = mask
        elif masks.without == "empty":
            found[row.number] = ()
    return found


def boxes_of(cells: Cells, root: Path, options: ImageCsvOptions, rows: list[Row]) -> dict[str, list[Box]]:
    """Boxes by film; an empty list where the table of boxes has a row without numbers: there is nothing.

    Raises
    ------
    UserError : a box is not of four numbers, of no category, or of no film of the table.
    """
    config = options.boxes
    if config is None:
        return {}
    if not config.table:
        found = _corners(cells, config)
        return {row.image_id: [box] for row in rows if (box := found[row.number]) is not None}
    image: Cell = config.image or options.image
    cells = Cells.read(
        root / config.table, [image.column, *config.corner, *([config.category] if config.category else [])]
    )
    names, boxes = _names_of(rows), dict[str, list[Box]]()
    for number, (word, box) in enumerate(zip(cells.words(image, "image"), _corners(cells, config), strict=True)):
        word = word.replace("\\", "/").strip("/")
        film = names.get(word) or names.get(word.rsplit("/", 1)[-1])
        if film is not None:
            boxes.setdefault(film, []).extend([box] if box else [])
        elif options.absent_films == "error":
            raise cells.error(
                number, f"{image.column!r} is no film of {options.table}", "add the film there, or take the line out"
            )
    return boxes


def _corners(cells: Cells, config: BoxTable) -> list[Box | None]:
    """The box of each row, None where all its cells are empty."""
    categories = (
        cells.words(Cell(column=config.category)) if config.category else [config.categories[0]] * len(cells.table)
    )
    found: list[Box | None] = []
    for number, written in enumerate(cells.table[list(config.corner)].itertuples(index=False)):
        said = [cell.strip() for cell in written]
        if not any(said):
            found.append(None)
            continue
        try:
            x, y, third, fourth = map(float, said)
        except ValueError:
            raise cells.error(number, "a box has four numbers, or none", "correct the cells") from None
        if categories[number] not in config.categories:
            known = ", ".join(config.categories)
            raise cells.error(
                number,
                f"{config.category!r} is {categories[number][:40]!r}",
                f"use one of options.boxes.categories: {known}",
            )
        if config.right:  # two corners, in any order
            x, y, third, fourth = min(x, third), min(y, fourth), abs(third - x), abs(fourth - y)
        found.append(Box(x, y, third, fourth, categories[number]))
    return found


def _names_of(rows: list[Row]) -> dict[str, str | None]:
    """Films by what another table may call them: by stem, by name, as their own table does; None where two are called so."""
    films, names = Places(Path(), FILMS), dict[str, str | None]()
    for row in rows:
        for name in {films.stem(row.path), row.path.name, row.image_id}:
            names[name] = None if name in names else row.image_id
    return names | {row.image_id: row.image_id for row in rows}
