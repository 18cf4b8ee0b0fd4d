"""Detections drawn on films of virtual patients; films of persons are never drawn."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from benchmarks.report.words import row_name
from mlip.data.splits import part_rows, read_splits
from mlip.data.store import open_store
from mlip.seeding import generator

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan, Row

FILMS, SHOWN = 4, 3  # films, and boxes of each row on a film
SIDE = 128  # pixels a film is drawn at


def detections(plan: Plan) -> list[dict[str, Any]]:
    """For each detection block on virtual films: films with a box, and each row's best boxes at the most labels.

    Returns
    -------
    ``dataset``, ``labels``, ``rows`` (``title`` and one ``<svg>`` per film). Nothing where predictions or films are not there.
    """
    found = []
    for block in plan.blocks:
        if block.task_name == "detection" and plan.study.datasets[block.dataset].twin:
            lines = _lines(plan, block)
            if lines:
                found.append({"dataset": block.dataset, "labels": f"{max(block.plan)} %", "rows": lines})
    return found


def _lines(plan: Plan, block: Block) -> list[dict[str, Any]]:
    paths = plan.paths
    if not (paths.data(block.dataset) / "records.parquet").is_file() or not paths.splits(block.dataset).is_file():
        return []
    store, splits = open_store(paths.data(block.dataset)), read_splits(paths.splits(block.dataset))
    test = part_rows(splits, "test")
    test = test[[len(store.records["boxes"].iloc[r]) > 0 for r in test]]
    rng = generator(plan.study.seed, "drawn films", block.dataset)
    chosen = np.sort(rng.choice(test, min(FILMS, len(test)), replace=False))
    side = store.images.shape[-1]
    films = [_film(store.images[r]) for r in chosen]
    ids = store.records["image_id"].iloc[chosen].tolist()
    truth = [np.array([list(b) for b in store.records["boxes"].iloc[r]]) for r in chosen]
    lines = []
    for row in block.rows:
        boxes = _boxes(plan, block, row, ids)
        if boxes is not None:
            drawn = [_svg(film, t, b, side) for film, t, b in zip(films, truth, boxes, strict=True)]
            lines.append({"title": row_name(row), "films": drawn})
    return lines


def _boxes(plan: Plan, block: Block, row: Row, ids: list[str]) -> list[list[tuple[np.ndarray, float]]] | None:
    """The best boxes of a row's first seed in each image; None where they are not of today's making."""
    cell = (block.task_name, block.protocol_name, block.dataset, row.name, row.seeds[0])
    if row.fault or (row.entry is not None and block.task.skip_reason(row.entry, block.dataset)):
        return None
    if not plan.is_made("evaluate", cell, plan.evaluation(*cell)):
        return None
    table = plan.paths.predictions(*cell)
    path = table.with_name(f"{table.stem}.f{max(block.plan)}.d{block.plan[max(block.plan)][0]}.json")
    if not path.is_file():
        return None
    by_image: dict[str, list[tuple[np.ndarray, float]]] = {image: [] for image in ids}
    for one in json.loads(path.read_text(encoding="utf-8")):
        if one["image_id"] in by_image:
            by_image[one["image_id"]].append((np.array(one["bbox"]), float(one["score"])))
    return [sorted(by_image[image], key=lambda b: -b[1])[:SHOWN] for image in ids]


def _film(pixels: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(out, "JPEG", quality=80)
    return base64.b64encode(out.getvalue()).decode()


def _svg(film: str, truth: np.ndarray, boxes: list[tuple[np.ndarray, float]], side: int) -> Markup:
    shapes = [_rect(b, "truth") for b in truth]
    shapes += [_rect(b, "found", opacity=1 - 0.3 * k, score=score) for k, (b, score) in enumerate(boxes)]
    image = f'<image href="data:image/jpeg;base64,{film}" width="{side}" height="{side}"/>'
    return Markup(
        f'<svg class="film" viewBox="0 0 {side} {side}" xmlns="http://www.w3.org/2000/svg">{image}{"".join(shapes)}</svg>'
    )


def _rect(box: np.ndarray, kind: str, opacity: float = 1.0, score: float | None = None) -> str:
    x, y, w, h = (f"{v:.1f}" for v in box)
    title = f"<title>score {score:.2f}</title>" if score is not None else "<title>true box</title>"
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{w}" height="{h}" opacity="{opacity:.1f}">{title}</rect>'
