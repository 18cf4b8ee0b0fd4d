"""Shots: k per class, of k patients, nested in k, the same for all methods; test labels are only ever scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.tasks.few_shot import TASK, shots
from benchmarks.tasks.shared.classification import load_cohort
from mlip.errors import UserError

COUNT = 400


@pytest.fixture
def rsna(world, rng):
    y = rng.integers(0, 2, COUNT)
    world.store("rsna", {"Pneumonia": y})
    world.features("rsna", rng.normal(size=(COUNT, 12)) + 2.5 * y[:, None] * (np.arange(12) < 2))
    return world


def test_more_shots_find_more_than_the_constant(rsna):
    frame = rsna.run("few_shot", "rsna")
    assert list(frame.columns) == ["image_id", "patient_id", "fraction", "draw", "label", "y", "p"]
    score = {k: np.mean([roc_auc_score(g.y, g.p) for _, g in f.groupby("draw")]) for k, f in frame.groupby("fraction")}
    assert sorted(score) == [1, 4] and set(frame.draw) == {0, 1, 2}
    assert score[4] > 0.8 > score[1] > 0.55
    constant = TASK.run_control(rsna.job("few_shot", "rsna", method="constant"))
    assert len(constant) == len(frame) and (constant.p == 0.5).all()


def test_shots_are_nested_balanced_and_of_different_training_patients(rsna):
    job = rsna.job("few_shot", "rsna")
    cohort = load_cohort(job)
    y, patients = cohort.y["Pneumonia"], cohort.store.records["patient_id"].to_numpy()
    part = cohort.splits["part"].to_numpy()
    orders = []
    for draw in range(3):
        small, large = (shots(job, cohort, "Pneumonia", k, draw) for k in (2, 16))
        assert (part[large] == "train").all()
        for c in (0, 1):
            of_class = large[y[large] == c]
            assert len(of_class) == 16 == len(set(patients[of_class]))
            np.testing.assert_array_equal(small[y[small] == c], of_class[:2])
        orders.append(tuple(large))
    assert len(set(orders)) == 3, "draws must differ"


def test_test_and_validation_labels_change_no_probability(rsna):
    before = rsna.run("few_shot", "rsna")
    part = pd.read_parquet(rsna.paths.splits("rsna"))["part"]

    def flip(frame):
        frame.loc[part != "train", "label.Pneumonia"] = 1 - frame.loc[part != "train", "label.Pneumonia"]

    rsna.rewrite(rsna.paths.data("rsna") / "records.parquet", flip)
    after = rsna.run("few_shot", "rsna")
    np.testing.assert_array_equal(before.p, after.p)
    np.testing.assert_array_equal(before.y, 1 - after.y)


def test_same_config_same_numbers(rsna):
    pd.testing.assert_frame_equal(rsna.run("few_shot", "rsna"), rsna.run("few_shot", "rsna"), check_exact=True)


def test_too_few_patients_are_named(world, rng):
    y = np.zeros(COUNT)
    y[:6] = 1  # three training patients of two images each
    world.store("rsna", {"Pneumonia": y})
    world.features("rsna", rng.normal(size=(COUNT, 4)))
    with pytest.raises(UserError, match=r"4 shots of 'Pneumonia' asked for .* has 3 such patients"):
        world.run("few_shot", "rsna")
