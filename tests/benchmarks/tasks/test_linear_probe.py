"""The probe finds what is there, sees no label it may not see, and gives the same numbers twice."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import benchmarks.tasks.linear_probe as module
from benchmarks.scores.metrics import METRICS
from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.linear_probe import TASK
from benchmarks.tasks.shared.probes import (
    Logistic,
    choose_strength,
    logistic_path,
    patient_folds,
    principal_axes,
)
from mlip.errors import UserError
from tests.benchmarks.conftest import a_source

COUNT, WIDTH = 500, 16
FAST = {"kind": "adamw", "lr": 0.01, "weight_decay": 1e-6, "batch_size": 48, "epochs": 3, "patience": 2}
FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")


def signal(rng, y, strength=2.0):
    """Features with the class along one direction, on wildly different scales."""
    x = rng.normal(size=(len(y), WIDTH))
    x[:, 0] += strength * y
    return x * np.logspace(-2, 2, WIDTH) + 5


@pytest.fixture
def rsna(world, rng):
    y = rng.integers(0, 2, COUNT)
    world.store("rsna", {"Pneumonia": y})
    world.features("rsna", signal(rng, y))
    return world


def auroc(frame, fraction):
    part = frame[(frame.fraction == fraction) & (frame.draw == 0)]
    return roc_auc_score(part.y, part.p)


@pytest.mark.parametrize("name", ["strict", "mgca-2022"])
def test_planted_signal_is_found_and_the_constant_is_beaten(rsna, name):
    budget = {} if name == "strict" else {"solver": FAST}
    frame = rsna.run("linear_probe", "rsna", name, **budget)
    assert set(zip(frame.fraction, frame.draw, strict=True)) == {
        *((f, d) for f in (1, 10) for d in range(2)),
        (100, 0),
    }
    assert list(frame.columns) == ["image_id", "patient_id", "fraction", "draw", "label", "y", "p"]
    assert len(frame) == 5 * 100 and frame.p.between(0, 1).all()
    constant = TASK.run_control(rsna.job("linear_probe", "rsna", name, method="constant"))
    assert list(constant.columns) == list(frame.columns) and len(constant) == len(frame)
    assert constant.groupby(["fraction", "draw"]).p.nunique().eq(1).all()
    assert auroc(constant, 100) == 0.5
    if name == "strict":  # mgca-2022 sees the raw scales: a signal on the smallest feature is out of its reach, a quirk
        assert auroc(frame, 100) > 0.88 and auroc(frame, 1) > 0.7
    cell = frame[(frame.fraction == 100)]
    for spec in TASK.metrics(read_protocol("linear_probe", name), a_source("rsna")):
        assert 0 <= METRICS[spec.key].value(cell, spec.args) <= 1
    first = TASK.metrics(read_protocol("linear_probe", name), a_source("rsna"))[0]
    assert METRICS[first.key].value(cell, first.args) == pytest.approx(auroc(frame, 100))


def test_adamw_finds_a_signal_of_ordinary_scale(world, rng):
    """With the lineage's own rate, 50 epochs of 7 batches would hardly move the weights: the budget raises it here."""
    world.study.tasks["linear_probe"].fractions[:] = [100]
    y = rng.integers(0, 2, COUNT)
    world.store("rsna", {"Pneumonia": y})
    world.features("rsna", rng.normal(size=(COUNT, WIDTH)) + 2.0 * y[:, None] * (np.arange(WIDTH) == 0))
    solver = {**read_protocol("linear_probe", "mgca-2022").solver.model_dump(), "lr": 0.02}
    assert auroc(world.run("linear_probe", "rsna", "mgca-2022", solver=solver), 100) > 0.88


@pytest.mark.parametrize("name", ["strict", "mgca-2022"])
def test_test_labels_change_no_probability(rsna, name):
    budget = {} if name == "strict" else {"solver": FAST}
    before = rsna.run("linear_probe", "rsna", name, **budget)
    test = pd.read_parquet(rsna.paths.splits("rsna"))["part"].eq("test")

    def flip(frame):
        frame.loc[test, "label.Pneumonia"] = 1 - frame.loc[test, "label.Pneumonia"]

    rsna.rewrite(rsna.paths.data("rsna") / "records.parquet", flip)
    after = rsna.run("linear_probe", "rsna", name, **budget)
    np.testing.assert_array_equal(before.p, after.p)
    np.testing.assert_array_equal(before.y, 1 - after.y)


def test_strict_reads_no_validation_row(rsna):
    before = rsna.run("linear_probe", "rsna")
    val = pd.read_parquet(rsna.paths.splits("rsna"))["part"].eq("val").to_numpy()

    def flip(frame):
        frame.loc[val, "label.Pneumonia"] = 1 - frame.loc[val, "label.Pneumonia"]

    rsna.rewrite(rsna.paths.data("rsna") / "records.parquet", flip)
    pd.testing.assert_frame_equal(before, rsna.run("linear_probe", "rsna"), check_exact=True)


def test_only_the_rows_of_the_draw_are_fitted(rsna, monkeypatch):
    seen = []
    original = logistic_path
    monkeypatch.setattr(
        module, "logistic_path", lambda x, y, *rest: seen.append((len(y), y.sum())) or original(x, y, *rest)
    )
    rsna.run("linear_probe", "rsna")
    splits = pd.read_parquet(rsna.paths.splits("rsna"))
    labels = pd.read_parquet(rsna.paths.data("rsna") / "records.parquet")["label.Pneumonia"]
    expected = [
        (int(use.sum()), int(labels[use].sum()))
        for fraction in (1, 10, 100)
        for draw in range(1 if fraction == 100 else 2)
        for use in [splits[f"draw{draw}"].between(1, fraction)]
    ]
    assert seen == expected


def test_same_config_same_numbers(rsna):
    for name, solver in (("strict", {}), ("mgca-2022", {"solver": FAST})):
        first, second = (rsna.run("linear_probe", "rsna", name, **solver) for _ in range(2))
        pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_a_draw_with_one_class_is_named(rsna):
    first = pd.read_parquet(rsna.paths.splits("rsna"))["draw1"].eq(1)

    def one_class(frame):
        frame.loc[first, "label.Pneumonia"] = 0

    rsna.rewrite(rsna.paths.data("rsna") / "records.parquet", one_class)
    for name in ("strict", "mgca-2022"):
        with pytest.raises(UserError, match=r"rsna: .*draw 1 at 1 % hold no 'Pneumonia'"):
            rsna.run("linear_probe", "rsna", name)


def test_several_labels_with_uncertain_and_missing_ones(world, rng):
    world.study.tasks["linear_probe"].fractions[:] = [100]
    labels = {name: rng.choice([1.0, 0.0, -1.0, np.nan], COUNT, p=[0.4, 0.4, 0.1, 0.1]) for name in FIVE}
    world.store("chexpert", labels)
    world.features("chexpert", signal(rng, np.nan_to_num(labels["Edema"]) == 1))
    test = pd.read_parquet(world.paths.splits("chexpert"))["part"].eq("test").to_numpy()
    frame = world.run("linear_probe", "chexpert")
    cell = frame[(frame.fraction == 100)]
    for name in FIVE:  # strict: uncertain left out, not mentioned counts as absent
        kept = test & (labels[name] != -1)
        part = cell[cell.label == name]
        assert len(part) == kept.sum()
        np.testing.assert_array_equal(part.y, np.nan_to_num(labels[name][kept]) == 1)
        assert kept.sum() < test.sum()
    assert roc_auc_score(cell[cell.label == "Edema"].y, cell[cell.label == "Edema"].p) > 0.85

    mgca = world.run("linear_probe", "chexpert", "mgca-2022")
    cell = mgca[mgca.fraction == 100]
    for name, positive in zip(FIVE, (True, False, False, True, True), strict=True):
        y = (labels[name][test] == 1) | ((labels[name][test] == -1) & positive)
        np.testing.assert_array_equal(cell[cell.label == name].y, y)


@pytest.mark.parametrize("name", ["strict", "mgca-2022"])
def test_one_class_of_several(world, rng, name):
    classes = ("normal", "pneumonia", "COVID-19")
    world.study.tasks["linear_probe"].fractions[:] = [100]
    y = rng.integers(0, 3, COUNT)
    world.store("covidx", {c: (y == i).astype(float) for i, c in enumerate(classes)})
    world.features("covidx", rng.normal(size=(COUNT, WIDTH)) + 3 * np.eye(WIDTH)[y])
    frame = world.run("linear_probe", "covidx", name)
    cell = frame[(frame.fraction == 100)].pivot_table(index="image_id", columns="label", values=["y", "p"])
    np.testing.assert_allclose(cell["p"].sum(axis=1), 1, atol=1e-6)
    assert (cell["y"].sum(axis=1) == 1).all()
    assert (cell["y"].idxmax(axis=1) == cell["p"].idxmax(axis=1)).mean() > (0.85 if name == "strict" else 0.7)
    constant = TASK.run_control(world.job("linear_probe", "covidx", name, method="constant"))
    share = constant[constant.fraction == 100].groupby("label").p.first()
    train = pd.read_parquet(world.paths.splits("covidx"))["part"].eq("train").to_numpy()
    np.testing.assert_allclose(share[list(classes)], np.bincount(y[train]) / train.sum())


def test_labels_in_one_subset_only(world, rng):
    """`among`: COVID-19 is told from other pneumonias, films without pneumonia take no part."""
    from benchmarks.tasks.shared.classification import Target

    records = pd.DataFrame({"label.COVID-19": [1, 0, 0, np.nan], "label.Pneumonia": [1, 1, 0, 1]})
    answers = Target(labels=["COVID-19"], among="Pneumonia").answers(records)["COVID-19"]
    np.testing.assert_array_equal(answers, [1, 0, np.nan, np.nan])


def test_unfit_protocol_is_refused_before_anything_runs(world):
    TASK.check(read_protocol("linear_probe", "strict"), a_source("rsna"), world.study)
    with pytest.raises(UserError, match=r"mgca-2022\.yaml.*siim"):
        TASK.check(read_protocol("linear_probe", "mgca-2022"), a_source("siim"), world.study)
    foreign = read_protocol("linear_probe", "strict")
    foreign.datasets["rsna"].labels[:] = ["Mass effect"]
    with pytest.raises(UserError, match="'Mass effect' on rsna"):
        TASK.check(foreign, a_source("rsna"), world.study)


# --- the solvers ------------------------------------------------------------------------------------------------------


def sklearn(x, y, strength):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (strength * len(y)), max_iter=10_000, tol=1e-9, solver="newton-cholesky")
    return model.fit(x, y)


@pytest.mark.parametrize("shape", [(30, 80), (80, 30)])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_path_is_scikit_learns_minimum(rng, shape, classes):
    """On all axes, in the rows' own axes, at strong and weak penalties, for two classes and several."""
    scales = np.logspace(-2, 1, shape[1])
    x, z = rng.normal(size=shape) * scales, rng.normal(size=(50, shape[1])) * scales
    y = np.arange(shape[0]) % classes
    x[:, 0] += y
    axes, other = principal_axes(x, z)
    assert axes.shape[1] == min(shape)
    np.testing.assert_allclose(axes @ axes.T, x @ x.T, atol=1e-8)
    strengths = [10, 0.1, 0.001]
    for strength, model in zip(strengths, logistic_path(axes, y, strengths, 1000), strict=True):
        p = model.probabilities(other)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        np.testing.assert_allclose(p, sklearn(x, y, strength).predict_proba(z), atol=0.01)


def test_features_that_say_nothing_give_the_share_of_each_class():
    axes, other = principal_axes(np.zeros((12, 5)), np.zeros((2, 5)))
    (model,) = logistic_path(axes, np.arange(12) % 4 // 3, [0.1], 1000)
    np.testing.assert_allclose(model.probabilities(other), [[0.75, 0.25]] * 2, atol=1e-4)


def test_a_fit_that_does_not_converge_is_no_number(rng):
    x = rng.normal(size=(40, 5))
    with pytest.raises(RuntimeError, match=r"strength 0\.001 did not converge"):
        list(logistic_path(x, (x[:, 0] > 0).astype(int), [0.001], 1))


def test_the_penalty_is_on_the_mean_loss(rng):
    """Repeating every row leaves the optimum where it is, so one grid serves all training sizes."""

    def weights(x, y, strength):
        (model,) = logistic_path(x, y, [strength], 1000)
        return model.weights

    x, y = rng.normal(size=(40, 5)), rng.integers(0, 2, 40)
    once = weights(x, y, 0.3)
    np.testing.assert_allclose(once, weights(np.tile(x, (3, 1)), np.tile(y, 3), 0.3), atol=1e-4)
    assert np.linalg.norm(weights(x, y, 3.0)) < np.linalg.norm(once)


def test_folds_keep_patients_whole_and_classes_present(rng):
    patients = rng.integers(0, 30, 100)
    y = (patients < 5).astype(int)
    folds = patient_folds(y, patients, 3, rng)
    assert pd.Series(folds).groupby(patients).nunique().eq(1).all()
    for fold in range(3):
        assert set(y[folds == fold]) == set(y[folds != fold]) == {0, 1}
    assert patient_folds((patients == 3).astype(int), patients, 3, rng) is None


def test_selection_takes_the_least_held_out_loss(rng):
    """By scikit-learn over the whole grid: stopping early on the way to weak penalties misses nothing."""
    settings = read_protocol("linear_probe", "strict").solver
    assert isinstance(settings, Logistic)
    grid = sorted(settings.strengths, reverse=True)
    for strength in (0.0, 0.3, 1.0, 3.0):
        y, patients = rng.integers(0, 2, 120), np.arange(120) // 2
        x = rng.normal(size=(120, 20))
        x[:, 0] += strength * y
        folds = patient_folds(y, patients, settings.folds, np.random.default_rng(1))
        losses = np.zeros(len(grid))
        for fold in range(settings.folds):
            held = folds == fold
            for k, s in enumerate(grid):
                logs = sklearn(x[~held], y[~held], s).predict_log_proba(x[held])
                losses[k] -= logs[np.arange(held.sum()), y[held]].sum()
        chosen = choose_strength(x, y, patients, settings, np.random.default_rng(1))
        assert chosen == grid[int(np.argmin(losses))]
        assert chosen > 1 if strength == 0 else chosen < 1 if strength == 3 else True, "noise asks for more penalty"
    assert choose_strength(x[:3], np.array([0, 0, 1]), patients[:3] * 0 + [1, 2, 3], settings, rng) == settings.fallback


def test_where_nothing_can_be_chosen_both_tasks_take_one_penalty():
    probe, few = read_protocol("linear_probe", "strict"), read_protocol("few_shot", "strict")
    assert probe.solver.fallback == few.strength
