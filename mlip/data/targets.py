"""Boxes and masks as a data set gives them, and those that can be trained on: one rule for all readers.

Detectors match anchors to the true box that they overlap best. Of a box that overlaps nothing the best overlap is 0, which every
anchor beside no box has: one box without area among 100 films makes them all foreground (AP50 .72 became .52). So such a box
must never leave this file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mlip.data.formats.dicom import dicom_size, is_dicom
from mlip.data.formats.files import image_size
from mlip.data.records import Box, Reader, Record
from mlip.errors import UserError

# What is counted, in the words that manifest, log and doctor use.
NOT_FINITE = "boxes dropped: not finite"
REVERSED = "boxes dropped: negative width or height"
NO_AREA = "boxes dropped: without area"
OUTSIDE = "boxes dropped: outside the film"
REPEATED = "boxes dropped: listed twice"
CUT = "boxes cut at the edge of the film"
NO_BOX_LEFT = "films without a usable box, unlabelled for detection"
NO_MASK_PIXEL = "masks without a pixel, unlabelled for segmentation"
VANISHED = "masks without a pixel at the size of the store, unlabelled for segmentation"
FLAT = "films of one grey level"

_LEAST = 1.0  # pixels of the film; a thinner box outlines nothing, and can lose its area when it is scaled
_EDGE = 1e-3  # pixels beyond the edge that are rounding


def sound_boxes(boxes: Sequence[Box], size: tuple[int, int] | None = None) -> tuple[tuple[Box, ...], Counter[str]]:
    """The boxes of one film that can be trained on, and how many were dropped or cut for which reason.

    Dropped: a coordinate that is not finite; a negative width or height (it comes of exchanged columns or a wrong difference,
    and turning the box round would invent a place; readers of corner coordinates take those in any order); less than one
    pixel wide or high; outside the film; the same box and category a second time. Partly outside: cut.

    Parameters
    ----------
    size : width and height of the film in pixels. Without it, what needs it is not judged.
    """
    counts: Counter[str] = Counter()
    kept: dict[Box, None] = {}
    for box in boxes:
        if not all(map(math.isfinite, (box.x, box.y, box.width, box.height))):
            counts[NOT_FINITE] += 1
        elif box.width < 0 or box.height < 0:
            counts[REVERSED] += 1
        elif box.width < _LEAST or box.height < _LEAST:
            counts[NO_AREA] += 1
        elif (within := _within(box, size)) is None:
            counts[OUTSIDE] += 1
        elif within in kept:
            counts[REPEATED] += 1
        else:
            counts[CUT] += within is not box
            kept[within] = None
    return tuple(kept), +counts


def _within(box: Box, size: tuple[int, int] | None) -> Box | None:
    """The part of a box on the film, the same object where that is all of it; None where too little is."""
    if size is None:
        return box
    left, top = max(box.x, 0.0), max(box.y, 0.0)
    right, bottom = min(box.x + box.width, size[0]), min(box.y + box.height, size[1])
    if right - left < _LEAST - _EDGE or bottom - top < _LEAST - _EDGE:
        return None
    beyond = max(left - box.x, top - box.y, box.x + box.width - right, box.y + box.height - bottom)
    return Box(left, top, right - left, bottom - top, box.category) if beyond > _EDGE else box


def boxes_known(reader: Reader, record: Record, sound: Sequence[Box]) -> bool:
    """Whether a film without a sound box can be a true negative: not where its table lists boxes, of which none is left, nor where
    it is positive for a category of boxes, nor where nobody looked for any. True of any film with a sound box.
    """
    return bool(sound) or not (
        not record.boxes_listed or record.boxes or any(record.labels.get(c) == 1 for c in reader.box_categories)
    )


def judge_tables(records: Iterable[Record]) -> Counter[str]:
    """Counts of the boxes that the tables alone show to be unusable; no file is opened."""
    counts: Counter[str] = Counter()
    for record in records:
        if record.boxes:
            sound, of_film = sound_boxes(record.boxes)
            counts += of_film
            counts[NO_BOX_LEFT] += not sound
    return +counts


def examine(reader: Reader, record: Record) -> Counter[str]:
    """Open one film (:meth:`Reader.probe`) and count what is odd about its grey levels and targets; what
    :func:`judge_tables` has counted is not counted again.

    Raises
    ------
    UserError : as :meth:`Reader.probe` and :meth:`Reader.load_mask`, or the mask has another size than the film.
    """
    counts: Counter[str] = Counter()
    counts[FLAT] += not reader.probe(record)
    if not (record.boxes or record.mask):
        return +counts
    size = film_size(record)
    known, _ = sound_boxes(record.boxes)
    sound, of_film = sound_boxes(known, size)
    counts += of_film
    counts[NO_BOX_LEFT] += bool(known) and not sound
    if reader.mask_name and record.mask:
        counts[NO_MASK_PIXEL] += sound_mask(reader, record, (size[1], size[0])) is None
    return +counts


def words(counts: Mapping[str, int]) -> str:
    """The counts in one line for people."""
    return ", ".join(f"{what} ({count:,})" for what, count in sorted(counts.items()))


def film_size(record: Record) -> tuple[int, int]:
    """(width, height) of a film from its header.

    Raises
    ------
    UserError : the file is missing or cannot be read.
    """
    return dicom_size(record.path) if is_dicom(record.path) else image_size(record.path)


def sound_mask(reader: Reader, record: Record, shape: tuple[int, ...]) -> np.ndarray | None:
    """The mask uint8 {0, 1} [H, W] of a film of this shape; None where it is not known after all: the table or folder announces
    one (``record.mask`` is not empty) and it holds no pixel.

    Raises
    ------
    UserError : as :meth:`Reader.load_mask`, or the mask has another size than the film.
    """
    mask = reader.load_mask(record)
    if mask is None:
        return None
    if mask.shape != shape:
        sizes = "{1} x {0}, the film {3} x {2}".format(*mask.shape, *shape)
        raise UserError(f"the mask is {sizes} pixels", where=record.path, fix="use the mask that belongs to it")
    return mask if mask.any() or not record.mask or reader.black_masks_are_empty else None
