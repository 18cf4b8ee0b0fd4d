"""What the writers share: exposing films in parallel, image files, the truth table, and an all-or-nothing folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from mlip.errors import UserError
from mlip.log import progress
from mlip.seeding import generator
from mlip.twin.anatomy import cached_anatomies
from mlip.twin.chest import Chest
from mlip.twin.devices import draw_device
from mlip.twin.findings import Drawn, Plan, draw
from mlip.twin.hospital import hospital
from mlip.twin.radiograph import Film, expose
from mlip.twin.report import Sentence
from mlip.workers import forked

README = """VIRTUAL PATIENTS. Every film here was computed from one warped chest CT (see docs/twin.md); no person is shown.
The layout is that of {layout}. truth.parquet says what was drawn; readers of the data set never open it.
"""


@dataclass(frozen=True)
class Job:
    """One film to take. ``names`` name its random numbers, so it does not depend on which worker takes it."""

    path: str  # relative to the data set's folder
    names: tuple[object, ...]
    place: str
    anatomy: int
    plans: tuple[Plan, ...]
    view: str
    sex: str
    note: Any = None  # handed to `save`


@dataclass(frozen=True)
class Taken:
    """What is known of a film after it was written."""

    job: Job
    truth: list[dict[str, Any]]  # one entry per finding
    rows: Any  # what the writer's `save` returned


Save = Callable[[Film, Job, Path], Any]


def take_film(job: Job, anatomy_path: Path) -> Film:
    """Expose one film; a function of ``job`` and the anatomies only."""
    chest = _chest(anatomy_path, job.anatomy % cached_anatomies(anatomy_path).count)
    drawn = [
        draw_device(p, chest) if p.name in ("Support Devices", "Foreign object") else draw(p, chest) for p in job.plans
    ]
    return expose(chest, drawn, hospital(job.place), job.view, job.sex, generator(*job.names, "film"))


@lru_cache(maxsize=24)
def _chest(anatomy_path: Path, index: int) -> Chest:
    """A chest with its derived maps, kept for the next films of it (about 4 MB each at 224 px)."""
    return Chest(cached_anatomies(anatomy_path), index)


def take_films(
    folder: Path, anatomy_path: Path, size: int, jobs: Sequence[Job], save: Save, workers: int, title: str
) -> list[Taken]:
    """Take all films in ``workers`` processes and save each with ``save``; results in the order of ``jobs``.

    Raises
    ------
    UserError : the anatomies were built for films of another size.
    """
    stored = cached_anatomies(anatomy_path).size
    if stored != size:
        raise UserError(
            f"holds chests of {stored} px, the study asks for {size}", where=anatomy_path, fix="delete it and run again"
        )
    for parent in sorted({(folder / job.path).parent for job in jobs}):
        parent.mkdir(parents=True, exist_ok=True)
    blocks = [list(jobs[i : i + 32]) for i in range(0, len(jobs), 32)]
    taken: list[Taken] = []
    with progress() as bar:
        task = bar.add_task(title, total=len(jobs))
        if workers > 1 and len(blocks) > 1:
            # Forked workers share the anatomies that were just read.
            with forked(workers) as pool:
                for block in pool.map(_take_block, [(folder, anatomy_path, b, save) for b in blocks]):
                    taken += block
                    bar.advance(task, len(block))
        else:
            for one in blocks:
                taken += _take_block((folder, anatomy_path, one, save))
                bar.advance(task, len(one))
    return taken


def _take_block(work: tuple[Path, Path, list[Job], Save]) -> list[Taken]:
    folder, anatomy_path, jobs, save = work
    cv2.setNumThreads(1)
    taken = []
    # The workers are the parallelism: BLAS threads beneath them halve the rate.
    with threadpool_limits(1):
        for job in jobs:
            film = take_film(job, anatomy_path)
            rows = save(film, job, folder / job.path)
            taken.append(Taken(job, [_truth(finding) for finding in film.findings], rows))
    return taken


def _truth(finding: Drawn) -> dict[str, Any]:
    plan = finding.plan
    return {
        "finding": plan.name,
        "kind": plan.kind,
        "side": plan.side,
        "place": plan.place,
        "severity": plan.severity,
        "boxes": [list(map(float, box_of(m))) for m in finding.instances],
    }


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height in pixels of the smallest rectangle around a mask that is not empty."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)


def save_image(film: Film, job: Job, path: Path) -> None:
    """Write an 8-bit grey file of the path's format."""
    write_image(film.image, path)


def write_image(pixels: np.ndarray, path: Path) -> None:
    """Write uint8 [H, W], or [H, W, 3] in the order blue, green, red, in the path's format (cv2's JPEG quality is 95).

    Raises
    ------
    UserError : it could not be written.
    """
    if not cv2.imwrite(str(path), pixels):
        raise UserError("the image could not be written", where=path, fix="check the disk's free space")


def write_truth(
    folder: Path, taken: Sequence[Taken], *, seed: int, place: str, layout: str, sentences: dict[str, Any] | None = None
) -> None:
    """``truth.parquet`` (one row per film), ``TWIN.json`` and ``README``: they mark the folder as virtual.

    ``sentences`` gives, per film path, the report's sentences as a list of {text, section, says}.
    """
    table = pd.DataFrame(
        {
            "path": [t.job.path for t in taken],
            "anatomy": [t.job.anatomy for t in taken],
            "findings": [json.dumps(t.truth) for t in taken],
            "sentences": [json.dumps((sentences or {}).get(t.job.path, [])) for t in taken],
        }
    )
    table.to_parquet(folder / "truth.parquet", index=False)
    (folder / "TWIN.json").write_text(
        json.dumps({"virtual": True, "seed": seed, "hospital": place, "layout": layout, "truth": "truth.parquet"})
        + "\n",
        encoding="utf-8",
    )
    (folder / "README").write_text(README.format(layout=layout), encoding="utf-8")


def sentence_truth(sentences: Sequence[Sentence]) -> list[dict[str, Any]]:
    """Sentences as :func:`write_truth` keeps them."""
    return [{"text": s.text, "section": s.section, "says": s.says} for s in sentences]


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder that takes ``folder``'s place at the end; after an error or a kill ``folder`` is as it was."""
    scratch = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    scratch.rename(folder)


def hex_name(rng: np.random.Generator, digits: int) -> str:
    """A random lower-case hexadecimal name."""
    return rng.bytes(digits // 2 + 1).hex()[:digits]
