"""Matching: COCO's rule by hand, and the average precision of the kept outcomes against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.scores.metrics import METRICS
from benchmarks.tasks.detection.boxes import ImageBoxes, coco_results
from benchmarks.tasks.detection.matching import evaluate, mean_average_precision, outcomes

IOUS = [0.5, 0.4, 0.45, 0.55, 0.6, 0.65, 0.7, 0.75]


def boxes(values: list[list[float]], scores: list[float] | None = None, category: int = 0) -> ImageBoxes:
    array = np.array(values, dtype=float).reshape(-1, 4)
    return ImageBoxes(array, np.full(len(array), category), None if scores is None else np.array(scores, dtype=float))


def test_matching_by_hand() -> None:
    truth = [boxes([[0, 0, 10, 10], [20, 0, 10, 10]]), boxes([]), boxes([[0, 0, 10, 10]])]
    found = [
        # IoU 0.8 with the first; a lower duplicate of it; IoU 6/14 = 0.43 with the second (shifted by 4)
        boxes([[0, 0, 10, 8], [0, 0, 10, 10], [24, 0, 10, 10]], [0.9, 0.5, 0.7]),
        boxes([[5, 5, 5, 5]], [0.3]),
        boxes([], []),
    ]
    table = outcomes(evaluate(truth, found, ["a"], [0.4, 0.5, 0.9], 20), truth, ["a"])
    assert table.n_truth.tolist() == [2, 0, 1]
    assert table.scores.tolist() == [[0.9, 0.7, 0.5], [0.3], []]
    # bit 0: 0.4, bit 1: 0.5, bit 2: 0.9. The duplicate finds its box free only at 0.9.
    assert table.matched.tolist() == [[0b011, 0b001, 0b100], [0], []]


def test_categories_are_matched_apart() -> None:
    truth = [boxes([[0, 0, 10, 10]], category=1)]
    found = [boxes([[0, 0, 10, 10]], [0.9], category=0)]
    table = outcomes(evaluate(truth, found, ["a", "b"], [0.5], 20), truth, ["a", "b"])
    assert table.label.tolist() == ["a", "b"] and table.n_truth.tolist() == [0, 1]
    assert table.matched.tolist() == [[0], []]


def random_case(rng: np.random.Generator, images: int) -> tuple[list[ImageBoxes], list[ImageBoxes]]:
    """Clusters of overlapping boxes, tied scores, images without true or without found boxes."""
    truth, found = [], []
    for _ in range(images):
        corner = rng.uniform(0, 60, (rng.integers(0, 4), 2))
        real = np.concatenate([corner, rng.uniform(8, 30, corner.shape)], axis=1)
        near = np.repeat(real, rng.integers(0, 3, len(real)), axis=0)
        near = near + rng.normal(0, 2.5, near.shape)
        noise = rng.uniform(5, 40, (rng.integers(0, 3), 4))
        guess = np.maximum(np.concatenate([near, noise]), 1.0)
        truth.append(ImageBoxes(real, np.zeros(len(real), dtype=np.int64)))
        ranks = np.round(rng.random(len(guess)), 1)
        found.append(ImageBoxes(guess, np.zeros(len(guess), dtype=np.int64), ranks))
    return truth, found


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_of_outcomes_equals_pycocotools(seed: int) -> None:
    truth, found = random_case(np.random.default_rng(seed), 30)
    result = evaluate(truth, found, ["a"], IOUS, 20)
    table = outcomes(result, truth, ["a"])
    table["image_id"] = table["patient_id"] = table.pop("image").astype(str)
    expected = mean_average_precision(result)
    assert 0.05 < expected < 0.95
    assert METRICS["map"].value(table, {"ious": IOUS}) == pytest.approx(expected, abs=1e-9)
    first = mean_average_precision(evaluate(truth, found, ["a"], IOUS[:1], 20))
    assert METRICS["map"].value(table, {"ious": IOUS[:1]}) == pytest.approx(first, abs=1e-9)
    shuffled = evaluate(truth, found, ["a"], [0.75, 0.5], 20)
    assert outcomes(shuffled, truth, ["a"]).matched.map(lambda m: [v >> 1 for v in m]).tolist() == [
        [v & 1 for v in m] for m in table.matched
    ]


def test_no_truth_has_no_precision() -> None:
    truth, found = [boxes([])], [boxes([[0, 0, 5, 5]], [0.5])]
    assert mean_average_precision(evaluate(truth, found, ["a"], IOUS, 20)) == -1.0


def test_coco_results_format() -> None:
    found = [boxes([[1.234567, 2, 3, 4]], [1 / 3], category=1)]
    expected = {"image_id": "ab", "category_id": 2, "bbox": [1.234567, 2, 3, 4], "score": 1 / 3}
    assert coco_results(["ab"], found) == [expected], "in full precision"
