"""Brier score and calibration error against scikit-learn and torchmetrics, and under weights against repeated patients."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import binary_calibration_error

from benchmarks.scores.calibration import BINS, CALIBRATION
from benchmarks.scores.metrics import METRICS


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = []
    for label, sharp in (("a", 1.0), ("b", 4.0)):
        score = rng.normal(size=300)
        y = rng.random(300) < 1 / (1 + np.exp(-score))
        p = 1 / (1 + np.exp(-sharp * score))
        parts.append(pd.DataFrame({"image_id": range(300), "label": label, "y": y.astype(float), "p": p}))
    return pd.concat(parts, ignore_index=True)


def test_they_equal_other_libraries(frame: pd.DataFrame) -> None:
    by_label = [group for _, group in frame.groupby("label")]
    brier = np.mean([brier_score_loss(g["y"], g["p"]) for g in by_label])
    assert CALIBRATION["Brier"].value(frame) == pytest.approx(brier, abs=1e-9)
    error = np.mean(
        [
            binary_calibration_error(
                torch.tensor(g["p"].to_numpy()), torch.tensor(g["y"].to_numpy()).int(), n_bins=BINS
            )
            for g in by_label
        ]
    )
    assert CALIBRATION["ECE"].value(frame) == pytest.approx(float(error), abs=1e-6)


def test_overconfidence_is_seen_though_the_order_is_the_same(frame: pd.DataFrame) -> None:
    blunt, sharp = (frame[frame["label"] == label] for label in ("a", "b"))
    assert CALIBRATION["ECE"].value(sharp) > 0.15 > 0.1 > CALIBRATION["ECE"].value(blunt)
    squeezed = sharp.assign(p=sharp["p"] ** 0.25 / (sharp["p"] ** 0.25 + (1 - sharp["p"]) ** 0.25))
    assert METRICS["auroc"].value(squeezed) == METRICS["auroc"].value(sharp)
    assert CALIBRATION["ECE"].value(squeezed) < 0.5 * CALIBRATION["ECE"].value(sharp)


@pytest.mark.parametrize("name", CALIBRATION)
def test_a_patient_drawn_twice_counts_twice(frame: pd.DataFrame, name: str) -> None:
    units = frame["image_id"].to_numpy() // 3
    weights = np.random.default_rng(1).integers(0, 3, (100, 2)).astype(np.float32)
    repeated = frame.loc[np.repeat(np.arange(len(frame)), weights[units, 0].astype(int))]
    assert CALIBRATION[name].resample(frame, units, weights)[1][0] == pytest.approx(
        CALIBRATION[name].value(repeated), abs=1e-6
    )
