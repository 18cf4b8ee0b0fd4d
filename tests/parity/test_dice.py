from __future__ import annotations

import math

import numpy as np
import torch
from torchmetrics.functional.segmentation import dice_score

from benchmarks.scores.dice import counts, dice_from_counts, dice_mgca2022


def test_empty_truth_scores_by_the_convention_asked_for() -> None:
    tp, predicted, truth = [2, 0, 0, 0], [4, 0, 3, 0], [4, 0, 0, 5]
    np.testing.assert_array_equal(dice_from_counts(tp, predicted, truth), [0.5, 1, 0, 0])
    np.testing.assert_array_equal(dice_from_counts(tp, predicted, truth, empty_score=0.0), [0.5, 0, 0, 0])
    np.testing.assert_array_equal(dice_from_counts(tp, predicted, truth, empty_score=None), [0.5, np.nan, np.nan, 0])


def test_agrees_with_torchmetrics(rng: np.random.Generator) -> None:
    probability, truth = rng.random((6, 9, 7)), rng.random((6, 9, 7)) < 0.3
    theirs = dice_score(
        torch.tensor(probability > 0.5)[:, None], torch.tensor(truth)[:, None], num_classes=1, average="micro"
    )
    np.testing.assert_allclose(dice_from_counts(*counts(probability, truth)), theirs.numpy(), rtol=1e-6)


def test_positives_only_of_no_positive_is_nan() -> None:
    result = dice_mgca2022(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)))
    assert result["dice"] == 1 and math.isnan(result["dice_positives_only"])
