"""Every number of a finished study once more, from its stored predictions, with other people's code alone.

Uses scikit-learn, pycocotools, torch and pandas; of the project only paths, protocols' numbers and where things lie. What the
project itself does with these predictions (weights, resamples, sums) is not used.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from torchmetrics.functional.segmentation import dice_score

from benchmarks.plan import Plan


def recompute(plan: Plan) -> pd.DataFrame:
    """task, protocol, dataset, metric, fraction, method, again: the mean over seeds and draws."""
    records = []
    for block in plan.blocks:
        for row in block.rows:
            if row.entry is not None and block.task.skip_reason(row.entry, block.dataset):
                continue
            cell = (block.task_name, block.protocol_name, block.dataset, row.name)
            for spec in block.specs:
                for fraction, draws in block.plan.items():
                    found = [
                        _value(plan, spec.key, spec.args, plan.paths.predictions(*cell, seed), fraction, draw)
                        for seed in row.seeds
                        for draw in draws
                    ]
                    records.append((*cell[:3], spec.title, fraction, row.name, float(np.mean(found))))
    return pd.DataFrame(records, columns=["task", "protocol", "dataset", "metric", "fraction", "method", "again"])


def _value(plan: Plan, key: str, args: dict[str, Any], path: Path, fraction: int, draw: int) -> float:
    frame = pd.read_parquet(path)
    frame = frame[(frame["fraction"] == fraction) & (frame["draw"] == draw)]
    if key == "map":
        return _map(plan, path, frame, args, fraction, draw)
    return {
        "auroc": _of_labels(roc_auc_score),
        "average_precision": _of_labels(average_precision_score),
        "accuracy": _of_labels(lambda y, p: accuracy_score(y, p > args.get("threshold", 0.5))),
        "f1": _of_labels(
            lambda y, p: f1_score(y, p > args.get("threshold", 0.5), average=args.get("average", "binary"))
        ),
        "accuracy_argmax": _argmax,
        "recall_at": _recall_at,
        "dice": _dice,
        "pixel_ap": _pixel_ap,
    }[key](frame, args)


def _of_labels(measure: Any) -> Any:
    return lambda frame, _: float(np.mean([measure(g["y"], g["p"]) for _, g in frame.groupby("label")]))


def _argmax(frame: pd.DataFrame, _: Any) -> float:
    scores, truth = (frame.pivot_table(index="image_id", columns="label", values=v) for v in ("p", "y"))
    top = scores.eq(scores.max(axis=1), axis=0)
    return float(((top & (truth > 0)).sum(axis=1) / top.sum(axis=1)).mean())


def _recall_at(frame: pd.DataFrame, args: dict[str, Any]) -> float:
    kept = frame if "direction" not in args else frame[frame["label"] == args["direction"]]
    return float(np.mean([(g["rank"] < args["k"]).mean() for _, g in kept.groupby("label")]))


def _dice(frame: pd.DataFrame, args: dict[str, Any]) -> float:
    """Masks with the stored counts, given to torchmetrics one by one."""
    found = []
    for tp, predicted, truth in frame[["tp", "predicted", "truth"]].itertuples(index=False):
        if truth == 0:
            if args["empty"] == "one_if_empty":
                found.append(float(predicted == 0))
            continue
        guess, real = (torch.zeros(1, 1, predicted + truth, dtype=torch.int64) for _ in range(2))
        real[..., :truth] = 1
        guess[..., truth - tp : truth - tp + predicted] = 1
        found.append(float(dice_score(guess, real, num_classes=1, average="micro", input_format="one-hot")))
    return float(np.mean(found))


def _pixel_ap(frame: pd.DataFrame, _: Any) -> float:
    ill = frame[frame["truth"] > 0]
    on, off = (np.stack(list(ill[c])).sum(axis=0) for c in ("on_true", "on_other"))
    bins = np.arange(len(on))
    y = np.concatenate([np.ones(len(on)), np.zeros(len(off))])
    return float(average_precision_score(y, -np.concatenate([bins, bins]), sample_weight=np.concatenate([on, off])))


def _map(plan: Plan, path: Path, frame: pd.DataFrame, args: dict[str, Any], fraction: int, draw: int) -> float:
    """pycocotools on the COCO results file and the store's true boxes."""
    images = list(dict.fromkeys(frame["image_id"]))
    number = {image: k + 1 for k, image in enumerate(images)}
    folder = plan.paths.data(path.parts[-3])
    records = pd.read_parquet(folder / "records.parquet").set_index("image_id")
    categories = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["box_categories"]
    truth = [
        {"image_id": number[image], "bbox": [float(v) for v in box], "category_id": categories.index(name) + 1}
        for image in images
        for box, name in zip(records.loc[image, "boxes"], records.loc[image, "box_categories"], strict=True)
    ]
    found = json.loads(path.with_name(f"{path.stem}.f{fraction}.d{draw}.json").read_text(encoding="utf-8"))
    detections = [{**one, "image_id": number[one["image_id"]]} for one in found]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = [_dataset(images, categories, boxes) for boxes in (truth, detections)]
        result = COCOeval(*sides, "bbox")
        result.params.iouThrs = np.array([args["at"]] if "at" in args else args["ious"])
        result.params.maxDets = [10_000]
        result.params.areaRng, result.params.areaRngLbl = [[0, 1e10]], ["all"]
        result.evaluate()
        result.accumulate()
    precision = result.eval["precision"]
    return float(precision[precision > -1].mean())


def _dataset(images: list[str], categories: list[str], boxes: list[dict[str, Any]]) -> COCO:
    full = [{**b, "id": k + 1, "area": b["bbox"][2] * b["bbox"][3], "iscrowd": 0} for k, b in enumerate(boxes)]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": k + 1} for k in range(len(images))],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(categories)],
        "annotations": full,
    }
    coco.createIndex()
    return coco
