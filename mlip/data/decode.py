"""Decoding a data set into memory-mapped arrays: in chunks, in parallel, resumable after a kill."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import imagehash
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mlip.data.formats.files import is_flat
from mlip.data.records import Reader, Record
from mlip.data.space import allocate, room
from mlip.data.targets import NO_MASK_PIXEL, VANISHED, sound_mask
from mlip.errors import UserError
from mlip.workers import forked

CHUNK = 64  # images decoded between two entries of the resume journal
HELD, ROW_BYTES = (
    "held.npy",
    4096,
)  # room for the tables until they are written, of each film: a report takes most of it


def fit(image: np.ndarray, size: int) -> tuple[np.ndarray, float, int, int]:
    """Resize the longer side to ``size`` (area interpolation) and zero-pad the shorter one, centred.

    Returns the padded image [size, size], the scale, and the left and top offset of the content in pixels.
    """
    height, width = image.shape
    scale = size / max(height, width)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    left, top = (size - w) // 2, (size - h) // 2
    padded = np.zeros((size, size), image.dtype)
    padded[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=method)
    return padded, scale, left, top


def difference_hash(image: np.ndarray) -> int:
    """64-bit dHash (imagehash's own) of a grey image without its padding."""
    return int(str(imagehash.dhash(Image.fromarray(image))), 16)


@dataclass(frozen=True)
class DecodeJob:
    """What a worker needs besides its chunk."""

    reader: Reader
    folder: Path
    size: int
    masked: bool

    def bytes_of(self, images: int) -> int:
        """What this number of images or masks takes on the disk."""
        return images * self.size**2


def prepare(job: DecodeJob, records: list[Record], masks: int, key: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Reserve the partial folder, or take over one that a killed build of the same content left; its finished chunks.

    Raises
    ------
    UserError : there is not room for the whole store; nothing is left behind.
    """
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr((str(record.path), record.image_id, record.mask)).encode())
    key = {
        **key,
        "format": 2,  # of the journal's rows
        "size": job.size,
        "count": len(records),
        "masks": masks,
        "chunk": CHUNK,
        "records": digest.hexdigest(),
    }
    folder, journal = job.folder, job.folder / "done.jsonl"
    files = {folder / "images.npy": len(records)} | ({folder / "masks.npy": masks} if job.masked else {})
    taken_over = _read_key(folder) == key and all(file.is_file() for file in files)
    if not taken_over and folder.exists():
        shutil.rmtree(folder)
    with room(folder.parent, job.bytes_of(len(records) + masks) + len(records) * ROW_BYTES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file, rows in files.items():
                allocate(file, (rows, job.size, job.size))
            allocate(folder / HELD, (len(records), ROW_BYTES))
            if not taken_over:
                (folder / "key.json").write_text(json.dumps(key), encoding="utf-8")  # last: else it is started afresh
        except OSError:
            if not taken_over:
                shutil.rmtree(folder, ignore_errors=True)
            raise
    done = _read_journal(journal) if taken_over else {}
    # Written again so that a torn last line is not continued.
    journal.write_text("".join(_line(start, rows) for start, rows in done.items()), encoding="utf-8")
    return done


def _read_key(folder: Path) -> Any:
    try:
        return json.loads((folder / "key.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or cut short by a kill or a full disk
        return None


def _read_journal(path: Path) -> dict[int, list[dict[str, Any]]]:
    """The chunks of a killed build; those with an error are decoded again, their files may have been repaired since."""
    done = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            break  # the line that was being written when the build was killed
        if not any("error" in row for row in entry["rows"]):
            done[entry["start"]] = entry["rows"]
    return done


def _line(start: int, rows: list[dict[str, Any]]) -> str:
    return json.dumps({"start": start, "rows": rows}) + "\n"


def decode_all(
    job: DecodeJob,
    records: list[Record],
    mask_rows: np.ndarray,
    done: dict[int, list[dict[str, Any]]],
    workers: int,
    name: str,
) -> list[dict[str, Any]]:
    """Decode the chunks that are not done; per image its size, place and hash, whether it is ``flat`` (of one grey level) and, where
    its mask is unknown after all, ``mask``: why; or the error.
    """
    todo = [s for s in range(0, len(records), CHUNK) if s not in done]
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        (job.folder / "done.jsonl").open("a", encoding="utf-8") as journal,
        Progress(*bar, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
    ):
        task = progress.add_task(f"decode {name}", total=len(records), completed=sum(map(len, done.values())))
        for start, rows in _run_chunks(job, records, mask_rows, todo, workers):
            done[start] = rows
            journal.write(_line(start, rows))
            journal.flush()
            progress.advance(task, len(rows))
    return [row for start in sorted(done) for row in done[start]]


def _run_chunks(
    job: DecodeJob, records: list[Record], mask_rows: np.ndarray, todo: list[int], workers: int
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    def chunk(start: int) -> tuple[DecodeJob, int, list[Record], list[int]]:
        rows = slice(start, start + CHUNK)
        # Reports are not needed to decode and would only be copied between processes.
        return job, start, [replace(r, report="") for r in records[rows]], mask_rows[rows].tolist()

    if workers <= 1 or len(todo) <= 1:
        for start in todo:
            yield start, _decode_chunk(*chunk(start))
        return
    with forked(min(workers, len(todo))) as pool:
        # A bounded number in flight: the queue must not hold the pickles of a whole data set.
        running: dict[Future[list[dict[str, Any]]], int] = {}
        ahead = iter(todo)
        try:
            while True:
                for upcoming in islice(ahead, 2 * workers - len(running)):
                    running[pool.submit(_decode_chunk, *chunk(upcoming))] = upcoming
                if not running:
                    return
                for finished in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(finished), finished.result()
        except BrokenProcessPool:
            raise UserError(
                "a decoding process was killed (out of memory?)",
                where=job.folder,
                fix="run again with fewer workers, finished chunks are kept",
            ) from None


def _decode_chunk(job: DecodeJob, start: int, records: list[Record], mask_rows: list[int]) -> list[dict[str, Any]]:
    cv2.setNumThreads(1)
    images = np.load(job.folder / "images.npy", mmap_mode="r+")
    masks = np.load(job.folder / "masks.npy", mmap_mode="r+") if job.masked else None
    rows: list[dict[str, Any]] = []
    for offset, (record, mask_row) in enumerate(zip(records, mask_rows, strict=True)):
        try:
            image = job.reader.load_image(record)
            mask = sound_mask(job.reader, record, image.shape) if mask_row >= 0 else None
        except UserError as error:
            rows.append({"error": error.problem})
            continue
        images[start + offset], scale, left, top = fit(image, job.size)
        unknown = NO_MASK_PIXEL if mask is None and mask_row >= 0 else ""
        if mask is not None and masks is not None:
            masks[mask_row] = fit(mask.astype(np.float32), job.size)[0] >= 0.5
            if mask.any() and not masks[mask_row].any():
                unknown = VANISHED
        content = images[start + offset][top : job.size - top or None, left : job.size - left or None]
        height, width = image.shape
        rows.append(
            {
                "width": width,
                "height": height,
                "scale": scale,
                "left": left,
                "top": top,
                "dhash": difference_hash(content),
                "flat": is_flat(image),
                "mask": unknown,
            }
        )
    images.flush()
    if masks is not None:
        masks.flush()
    return rows


def drop_rows(job: DecodeJob, keep: list[int], mask_rows: np.ndarray) -> np.ndarray:
    """Copy the arrays without the rows of unreadable images and unknown masks; the new mask rows (of all images, -1 where there
    is none).

    Raises
    ------
    UserError : there is no room for the copy; the folder is left as it was, to go on from.
    """
    kept = [i for i in keep if mask_rows[i] >= 0]
    renumbered = np.full_like(mask_rows, -1)
    renumbered[kept] = np.arange(len(kept))
    copies = {"images.npy": keep} | ({"masks.npy": mask_rows[kept].tolist()} if kept else {})
    new = {file: job.folder / f"new-{file}" for file in copies}
    with room(job.folder.parent, job.bytes_of(sum(map(len, copies.values())))):
        try:
            for file, rows in copies.items():
                new[file].unlink(missing_ok=True)
                allocate(new[file], (len(rows), job.size, job.size))
        except OSError:
            for path in new.values():
                path.unlink(missing_ok=True)
            raise
    for file, rows in copies.items():
        source, target = np.load(job.folder / file, mmap_mode="r"), np.load(new[file], mmap_mode="r+")
        for begin in range(0, len(rows), 1024):
            target[begin : begin + 1024] = source[rows[begin : begin + 1024]]
        target.flush()
    (job.folder / "key.json").unlink()  # from here on the folder no longer matches its journal
    for file, path in new.items():
        path.replace(job.folder / file)
    if not kept:
        (job.folder / "masks.npy").unlink(missing_ok=True)
    return renumbered
