from __future__ import annotations

import numpy as np
import torch
from torchmetrics.functional.segmentation import dice_score

from benchmarks.scores.dice import dice_from_counts
from benchmarks.tasks.segmentation.model import bins_above, counts_above, pixel_histograms
from tests.parity.adapters import dice_mgca2022


def test_empty_truth_scores_by_the_convention_asked_for() -> None:
    tp, predicted, truth = [2, 0, 0, 0], [4, 0, 3, 0], [4, 0, 0, 5]
    np.testing.assert_array_equal(dice_from_counts(tp, predicted, truth), [0.5, 1, 0, 0])
    np.testing.assert_array_equal(dice_from_counts(tp, predicted, truth, empty_score=0.0), [0.5, 0, 0, 0])
    np.testing.assert_array_equal(dice_from_counts(tp, predicted, truth, empty_score=None), [0.5, np.nan, np.nan, 0])


def test_agrees_with_torchmetrics(rng: np.random.Generator) -> None:
    logits, truth = torch.tensor(rng.normal(size=(6, 1, 9, 7))), torch.tensor(rng.random((6, 9, 7)) < 0.3)
    theirs = dice_score(logits > 0, truth[:, None], num_classes=1, average="micro")
    ours = dice_from_counts(*counts_above(pixel_histograms(logits, truth).numpy(), bins_above(0.5)).T)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)


def test_positives_only_of_no_positive_is_nan() -> None:
    result = dice_mgca2022(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)))
    assert result["dice"] == 1 and np.isnan(result["dice_positives_only"])
