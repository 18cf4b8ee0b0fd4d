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

from mlip.data.records import Reader, Record
from mlip.errors import UserError
from mlip.workers import forked

CHUNK = 64  # images decoded between two entries of the resume journal


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


def prepare(job: DecodeJob, records: list[Record], masks: int, key: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Allocate the partial folder, or take over one that a killed build of the same content left; its finished chunks."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr((str(record.path), record.image_id, record.mask)).encode())
    key = {
        **key,
        "size": job.size,
        "count": len(records),
        "masks": masks,
        "chunk": CHUNK,
        "records": digest.hexdigest(),
    }
    folder, journal = job.folder, job.folder / "done.jsonl"
    if (folder / "key.json").is_file() and json.loads((folder / "key.json").read_text()) == key:
        done = {}
        for line in journal.read_text().splitlines() if journal.is_file() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                break  # the line that was being written when the build was killed
            if not any("error" in row for row in entry["rows"]):  # else the files may have been repaired since
                done[entry["start"]] = entry["rows"]
        # Written again so that a torn last line is not continued.
        journal.write_text("".join(json.dumps({"start": s, "rows": r}) + "\n" for s, r in done.items()))
        return done
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (len(records), job.size, job.size)).flush()
    if job.masked:
        np.lib.format.open_memmap(folder / "masks.npy", "w+", np.uint8, (masks, job.size, job.size)).flush()
    (folder / "key.json").write_text(json.dumps(key))  # last: a folder without it is started afresh
    return {}


def decode_all(
    job: DecodeJob,
    records: list[Record],
    mask_rows: np.ndarray,
    done: dict[int, list[dict[str, Any]]],
    workers: int,
    name: str,
) -> list[dict[str, Any]]:
    """Decode the chunks that are not done; per image the size and hash, or the error."""
    todo = [s for s in range(0, len(records), CHUNK) if s not in done]
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        (job.folder / "done.jsonl").open("a") as journal,
        Progress(*bar, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
    ):
        task = progress.add_task(f"decode {name}", total=len(records), completed=sum(map(len, done.values())))
        for start, rows in _run_chunks(job, records, mask_rows, todo, workers):
            done[start] = rows
            journal.write(json.dumps({"start": start, "rows": rows}) + "\n")
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
            mask = job.reader.load_mask(record) if mask_row >= 0 else None
            if mask is not None and mask.shape != image.shape:
                raise UserError(f"the mask is {mask.shape} and the image {image.shape}", where=record.path)
        except UserError as error:
            rows.append({"error": error.problem})
            continue
        images[start + offset], scale, left, top = fit(image, job.size)
        if mask is not None and masks is not None:
            masks[mask_row] = fit(mask.astype(np.float32), job.size)[0] >= 0.5
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
            }
        )
    images.flush()
    if masks is not None:
        masks.flush()
    return rows


def drop_rows(job: DecodeJob, keep: list[int], mask_rows: np.ndarray) -> np.ndarray:
    """Copy the arrays without the rows of unreadable images; the new mask rows (of all images, -1 where dropped)."""

    def compact(file: str, rows: list[int]) -> None:
        source = np.load(job.folder / file, mmap_mode="r")
        target = np.lib.format.open_memmap(job.folder / f"new-{file}", "w+", np.uint8, (len(rows), job.size, job.size))
        for begin in range(0, len(rows), 1024):
            target[begin : begin + 1024] = source[rows[begin : begin + 1024]]
        target.flush()
        (job.folder / f"new-{file}").replace(job.folder / file)

    kept = [i for i in keep if mask_rows[i] >= 0]
    renumbered = np.full_like(mask_rows, -1)
    renumbered[kept] = np.arange(len(kept))
    (job.folder / "key.json").unlink()  # from here on the folder no longer matches its journal
    compact("images.npy", keep)
    if job.masked:
        compact("masks.npy", mask_rows[kept].tolist())
    (job.folder / "key.json").write_text("{}")
    return renumbered
