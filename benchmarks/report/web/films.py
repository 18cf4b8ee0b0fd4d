"""Detections and segmentations drawn on films of virtual patients; films of persons are never drawn."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from markupsafe import Markup
from PIL import Image

from benchmarks.report.words import row_name
from benchmarks.tasks.segmentation.masks import read_masks
from mlip.data.splits import part_rows, read_splits
from mlip.data.store import Store, open_store
from mlip.seeding import generator

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan, Row

FILMS, SHOWN = 4, 3  # films, and boxes of each row on a film
SIDE = 128  # pixels a film is drawn at

Shapes = list[list[str]]  # of each film: SVG elements


def drawn(plan: Plan) -> list[dict[str, Any]]:
    """For each detection and segmentation block on virtual films: test films with the finding, the truth, and what each row's
    first seed found at the most labels.

    Returns
    -------
    ``task``, ``dataset``, ``labels``, ``rows`` (``title`` and one ``<svg>`` per film). Nothing where predictions or films are
    not there.
    """
    draw = {"detection": _detections, "segmentation": _segmentations}
    found = []
    for block in plan.blocks:
        paths = plan.paths
        there = (paths.data(block.dataset) / "records.parquet").is_file() and paths.splits(block.dataset).is_file()
        if block.task_name in draw and plan.study.datasets[block.dataset].twin and there:
            lines = draw[block.task_name](plan, block, open_store(paths.data(block.dataset)))
            if lines:
                labels = f"{max(block.plan)} %"
                found.append({"task": block.task_name, "dataset": block.dataset, "labels": labels, "rows": lines})
    return found


def _detections(plan: Plan, block: Block, store: Store) -> list[dict[str, Any]]:
    test = part_rows(read_splits(plan.paths.splits(block.dataset)), "test")
    test = test[[len(store.records["boxes"].iloc[r]) > 0 for r in test]]
    rng = generator(plan.study.seed, "drawn films", block.dataset)
    chosen = np.sort(rng.choice(test, min(FILMS, len(test)), replace=False))
    ids = store.records["image_id"].iloc[chosen].tolist()
    truth = [[_rect(np.array(list(b)), "truth") for b in store.records["boxes"].iloc[r]] for r in chosen]

    def found(table: Path) -> Shapes | None:
        at = max(block.plan)
        path = table.with_name(f"{table.stem}.f{at}.d{block.plan[at][0]}.json")
        if not path.is_file():
            return None
        by_image: dict[str, list[tuple[np.ndarray, float]]] = {image: [] for image in ids}
        for one in json.loads(path.read_text(encoding="utf-8")):
            if one["image_id"] in by_image:
                by_image[one["image_id"]].append((np.array(one["bbox"]), float(one["score"])))
        best = [sorted(boxes, key=lambda b: -b[1])[:SHOWN] for boxes in by_image.values()]
        return [[_rect(b, "found", 1 - 0.3 * k, score) for k, (b, score) in enumerate(boxes)] for boxes in best]

    return _lines(plan, block, store, chosen, truth, found)


def _segmentations(plan: Plan, block: Block, store: Store) -> list[dict[str, Any]]:
    at, draw = max(block.plan), block.plan[max(block.plan)][0]
    there = [table for row in block.rows if (table := _made(plan, block, row))]
    kept = next((list(masks) for table in there if (masks := read_masks(table, at, draw))), [])
    place = {image: k for k, image in enumerate(store.records["image_id"])}
    chosen = np.array([place[image] for image in kept if image in place][:FILMS], dtype=np.int64)
    ids = store.records["image_id"].iloc[chosen].tolist()
    assert store.masks is not None
    rows = store.records["mask_row"].to_numpy()
    truth = [_outline(store.masks[rows[r]] > 0, "truth") for r in chosen]

    def found(table: Path) -> Shapes | None:
        masks = read_masks(table, at, draw)
        return [_outline(masks[image], "found") for image in ids] if masks else None

    return _lines(plan, block, store, chosen, truth, found) if len(chosen) else []


def _lines(
    plan: Plan,
    block: Block,
    store: Store,
    chosen: np.ndarray,
    truth: Shapes,
    found: Callable[[Path], Shapes | None],
) -> list[dict[str, Any]]:
    side = store.images.shape[-1]
    films = [_film(store.images[r]) for r in chosen]
    lines = []
    for row in block.rows:
        table = _made(plan, block, row)
        shapes = found(table) if table else None
        if shapes is not None:
            pictures = [_svg(film, [*t, *s], side) for film, t, s in zip(films, truth, shapes, strict=True)]
            lines.append({"title": row_name(row), "films": pictures})
    return lines


def _made(plan: Plan, block: Block, row: Row) -> Path | None:
    """The predictions of a row's first seed; None where they are not of today's making."""
    cell = (block.task_name, block.protocol_name, block.dataset, row.name, row.seeds[0])
    if row.fault or (row.entry is not None and block.task.skip_reason(row.entry, block.dataset)):
        return None
    return plan.paths.predictions(*cell) if plan.is_made("evaluate", cell, plan.evaluation(*cell)) else None


def _film(pixels: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(out, "JPEG", quality=80)
    return base64.b64encode(out.getvalue()).decode()


def _svg(film: str, shapes: Sequence[str], side: int) -> Markup:
    image = f'<image href="data:image/jpeg;base64,{film}" width="{side}" height="{side}"/>'
    return Markup(
        f'<svg class="film" viewBox="0 0 {side} {side}" xmlns="http://www.w3.org/2000/svg">{image}{"".join(shapes)}</svg>'
    )


def _rect(box: np.ndarray, kind: str, opacity: float = 1.0, score: float | None = None) -> str:
    x, y, w, h = (f"{v:.1f}" for v in box)
    title = f"<title>score {score:.2f}</title>" if score is not None else "<title>true box</title>"
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{w}" height="{h}" opacity="{opacity:.1f}">{title}</rect>'


def _outline(mask: np.ndarray, kind: str) -> list[str]:
    """The borders of a mask [S, S] as polygons around its pixels."""
    large = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)  # so that a border goes along pixels' edges
    borders, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    title = "<title>true mask</title>" if kind == "truth" else "<title>segmented</title>"
    points = (" ".join(f"{(x + 0.5) / 2:.1f},{(y + 0.5) / 2:.1f}" for x, y in border[:, 0]) for border in borders)
    return [f'<polygon class="{kind}" points="{place}">{title}</polygon>' for place in points]
