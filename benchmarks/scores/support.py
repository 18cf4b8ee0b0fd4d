"""What a metric rests on: positives per label, the patients that carry it, and its exact value for random scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

FEW = 20  # positives below which an interval is marked
_BY_CLASS = {"auroc", "average_precision", "f1"}  # carried by the rarer class
_PRESENT = ("n_truth", "truth")  # columns of what is there to be found, in detection and segmentation


def positives(frame: pd.DataFrame) -> dict[str, int]:
    """Test images with each label (classification), with a box or with true pixels; empty where nothing is positive."""
    if "y" in frame:
        found = frame.loc[frame["y"] == 1].groupby("label")["image_id"].nunique()
        return {str(label): int(found.get(label, 0)) for label in sorted(frame["label"].unique())}
    column = next((c for c in _PRESENT if c in frame), None)
    if column is None:
        return {}
    there = frame[frame[column] > 0]
    if "label" not in frame:
        return {"": int(there["image_id"].nunique())}
    return {str(label): int(n) for label, n in there.groupby("label")["image_id"].nunique().items()}


def carriers(key: str, frame: pd.DataFrame, patients: np.ndarray, args: dict[str, Any]) -> int:
    """Patients that carry a metric: of the rarer class of the rarest label, those with something to find, or all.

    ``patients [rows]``: whose each row is. The number gives the degrees of freedom of the patients' variance.
    """
    if key in _BY_CLASS:
        table = pd.DataFrame({"label": frame["label"].to_numpy(), "y": frame["y"].to_numpy(), "who": patients})
        return int(table.groupby(["label", "y"])["who"].nunique().min())
    column = next((c for c in _PRESENT if c in frame), None)
    if column is None or args.get("empty") == "one_if_empty":
        return len(np.unique(patients))
    return len(np.unique(patients[frame[column].to_numpy() > 0]))


def chance(key: str, frame: pd.DataFrame, args: dict[str, Any]) -> float | None:
    """The expected metric of scores that are drawn at random; None where that has no exact value.

    Average precision: at place k stands a positive with probability m/n, and then 1 + (k - 1)(m - 1)/(n - 1) of the first k
    are expected to be positives; summed over k. Recall at k of a query with c correct among n candidates: hypergeometric.
    """
    if key == "auroc":
        return 0.5
    if key == "accuracy_argmax":
        return 1 / int(frame["label"].nunique())
    if key == "average_precision":
        found = []
        for _, y in frame.groupby("label")["y"]:
            n, m = len(y), float(y.sum())
            harmonic = float((1 / np.arange(1, n + 1)).sum())
            found.append((harmonic + (n - harmonic) * (m - 1) / (n - 1)) / n)
        return float(np.mean(found))
    if key == "recall_at" and {"candidates", "correct"} <= set(frame.columns):
        own = frame if "direction" not in args else frame[frame["label"] == args["direction"]]
        hit = stats.hypergeom.sf(0, own["candidates"], own["correct"], np.minimum(int(args["k"]), own["candidates"]))
        return float(pd.Series(hit).groupby(own["label"].to_numpy()).mean().mean())
    return None
