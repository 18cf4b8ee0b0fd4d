"""What metrics rest on, against counting and against simulated chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.scores.metrics import METRICS
from benchmarks.scores.support import carriers, chance, positives


def classes(rng: np.random.Generator, n: int = 40) -> pd.DataFrame:
    parts = []
    for label, count in (("a", 5), ("b", 30)):
        y = np.arange(n) < count
        parts.append(pd.DataFrame({"image_id": np.arange(n), "label": label, "y": y.astype(float), "p": rng.random(n)}))
    return pd.concat(parts, ignore_index=True)


def test_positives_and_carriers_are_counted(rng):
    frame = classes(rng)
    assert positives(frame) == {"a": 5, "b": 30}
    patients = np.tile(np.arange(40) // 2, 2)
    assert carriers("auroc", frame, patients, {}) == 3 and carriers("accuracy", frame, patients, {}) == 20
    masks = pd.DataFrame({"image_id": range(6), "truth": [0, 3, 4, 0, 0, 1]})
    assert positives(masks) == {"": 3} and positives(pd.DataFrame({"rank": [0]})) == {}
    assert carriers("dice", masks, np.array([0, 0, 0, 1, 1, 2]), {"empty": "skip"}) == 2
    assert carriers("dice", masks, np.array([0, 0, 0, 1, 1, 2]), {"empty": "one_if_empty"}) == 3
    boxes = pd.DataFrame({"image_id": range(3), "n_truth": [0, 2, 1]})
    assert positives(boxes) == {"": 2} and carriers("map", boxes, np.arange(3), {}) == 2


@pytest.mark.parametrize("key", ["auroc", "average_precision"])
def test_chance_is_the_mean_of_random_scores(key, rng):
    frame = classes(rng)
    found = [METRICS[key].value(frame.assign(p=rng.random(len(frame)))) for _ in range(1500)]
    assert np.mean(found) == pytest.approx(chance(key, frame, {}), abs=4 * np.std(found) / 1500**0.5)


def test_chance_of_the_right_class_among_three():
    frame = pd.DataFrame({"label": list("abc"), "y": [1.0, 0.0, 0.0]})
    assert chance("accuracy_argmax", frame, {}) == pytest.approx(1 / 3)


@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_chance_of_retrieval_is_exact_with_equal_reports(k, rng):
    """30 studies, some of one text, so that a text has several correct images."""
    from benchmarks.tasks.retrieval import ranks

    text_of = np.unique(rng.integers(0, 20, 30), return_inverse=True)[1]
    texts, number = text_of.max() + 1, len(text_of)
    rows = {
        "image-to-text": (texts, np.ones(number, dtype=int)),
        "text-to-image": (number, np.bincount(text_of)[text_of]),
    }
    frame = pd.concat(
        pd.DataFrame({"label": name, "candidates": n, "correct": correct}) for name, (n, correct) in rows.items()
    )
    found = []
    for _ in range(1500):
        rank = np.concatenate(ranks(rng.random((number, texts)), text_of))
        found.append(METRICS["recall_at"].value(frame.assign(rank=rank, image_id=0), {"k": k}))
    assert np.mean(found) == pytest.approx(
        chance("recall_at", frame, {"k": k}), abs=4 * np.std(found) / 1500**0.5 + 1e-9
    )
    one = chance("recall_at", frame, {"k": k, "direction": "image-to-text"})
    assert one == pytest.approx(min(k / texts, 1))


def test_where_chance_has_no_exact_value_it_has_none():
    assert chance("map", pd.DataFrame({"n_truth": [1]}), {}) is None
    assert chance("recall_at", pd.DataFrame({"label": ["a"], "rank": [0], "candidates": [5]}), {"k": 1}) is None
