"""Matching of found to true boxes by pycocotools, kept per image so that average precision can be computed later.

COCO's rule: found boxes of a category are visited by falling score, and each takes the free true box with the largest IoU
if that reaches the threshold. Images without found or without true boxes count like any other.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.tasks.detection.boxes import ImageBoxes


def evaluate(
    truth: Sequence[ImageBoxes],
    found: Sequence[ImageBoxes],
    categories: Sequence[str],
    ious: Sequence[float],
    max_detections: int,
) -> COCOeval:
    """Match the boxes of all images at every IoU threshold; all box sizes, no crowd regions."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        result = COCOeval(_coco(truth, categories), _coco(found, categories), "bbox")
        params = result.params
        params.imgIds, params.catIds = list(range(len(truth))), list(range(len(categories)))
        params.iouThrs = np.asarray(ious, dtype=np.float64)
        params.maxDets, params.areaRng, params.areaRngLbl = [max_detections], [[0.0, 1e10]], ["all"]
        result.evaluate()
    return result


def outcomes(result: COCOeval, truth: Sequence[ImageBoxes], categories: Sequence[str]) -> pd.DataFrame:
    """One row per image and category, images in their order, then categories.

    Columns: ``image`` (index), ``label`` (category), ``n_truth`` (true boxes), ``scores`` (of the found boxes, falling),
    ``matched`` (for each score an integer whose bit k says whether the box was matched at the k-th IoU threshold).
    """
    images = len(truth)
    bits = 1 << np.arange(len(result.params.iouThrs), dtype=np.int64)
    rows = []
    for image in range(images):
        for category, label in enumerate(categories):
            item = result.evalImgs[category * images + image]  # None where there is neither a true nor a found box
            scores: list[float] = [] if item is None else [float(s) for s in item["dtScores"]]
            masks: list[int] = [] if item is None else [int(m) for m in bits @ (item["dtMatches"] > 0)]
            n_truth = int((truth[image].categories == category).sum())
            rows.append((image, label, n_truth, scores, masks))
    return pd.DataFrame(rows, columns=["image", "label", "n_truth", "scores", "matched"])


def mean_average_precision(result: COCOeval) -> float:
    """COCO's 101-point average precision, mean over IoU thresholds and categories with true boxes; -1 without any."""
    with contextlib.redirect_stdout(io.StringIO()):
        result.accumulate()
    precision = result.eval["precision"]
    precision = precision[precision > -1]
    return float(precision.mean()) if len(precision) else -1.0


def _coco(images: Sequence[ImageBoxes], categories: Sequence[str]) -> COCO:
    annotations: list[dict[str, Any]] = []
    for image, item in enumerate(images):
        for k, (box, category) in enumerate(zip(item.boxes, item.categories, strict=True)):
            annotation = {
                "id": len(annotations) + 1,  # pycocotools takes id 0 for "not matched"
                "image_id": image,
                "category_id": int(category),
                "bbox": [float(v) for v in box],
                "area": float(box[2] * box[3]),
                "iscrowd": 0,
            }
            if item.scores is not None:
                annotation["score"] = float(item.scores[k])
            annotations.append(annotation)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": k} for k in range(len(images))],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories)],
    }
    coco.createIndex()
    return coco
