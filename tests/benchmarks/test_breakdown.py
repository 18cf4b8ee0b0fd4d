"""What stands behind a cell: labels, subgroups and calibration, against scikit-learn on the same predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from benchmarks.breakdown import CARRIERS, age_bands
from benchmarks.cells import compute
from benchmarks.report.build import build_tables
from benchmarks.scores.predictions import read_predictions
from tests.benchmarks.simulated import THREE_SEEDS, World, make_world

SEEDS = (0, 1, 2)


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    world = make_world(tmp_path, monkeypatch, **THREE_SEEDS)
    world.fill(tasks=("probe",), datasets=("rsna",))
    return world


def predictions(world: World, method: str) -> list[pd.DataFrame]:
    paths = [world.paths.predictions("probe", "plain", "rsna", method, seed) for seed in SEEDS]
    frames = [read_predictions(path)[0] for path in paths]
    return [frame[frame["fraction"] == 100] for frame in frames]


def plant(world: World, **columns: object) -> pd.DataFrame:
    """A store whose records say this of the test films."""
    images = sorted(predictions(world, "alpha")[0]["image_id"].unique())
    records = pd.DataFrame({"image_id": images, **columns})
    path = world.paths.data("rsna") / "records.parquet"
    path.parent.mkdir(parents=True)
    records.to_parquet(path)
    return records


def pick(found: pd.DataFrame, method: str, kind: str) -> pd.DataFrame:
    return found[(found["method"] == method) & (found["kind"] == kind)].set_index("group")


def auroc(frame: pd.DataFrame) -> float:
    return float(np.mean([roc_auc_score(g["y"], g["p"]) for _, g in frame.groupby("label")]))


def test_labels_and_calibration_are_those_of_the_predictions(world: World) -> None:
    results = compute(world.plan)
    frames = predictions(world, "alpha")
    labels = pick(results.behind, "alpha", "label")
    assert set(labels.index) == set(frames[0]["label"])
    for label, row in labels.iterrows():
        ours = [f[f["label"] == label] for f in frames]
        assert row["value"] == pytest.approx(np.mean([roc_auc_score(f["y"], f["p"]) for f in ours]), abs=1e-9)
        assert row["positives"] == ours[0]["y"].sum() and row["n_test"] == 120
        assert row["ci_low"] < row["value"] < row["ci_high"]
    cell = results.cells[(results.cells["method"] == "alpha") & (results.cells["fraction"] == 100)].iloc[0]
    assert labels["value"].mean() == pytest.approx(cell["value"], abs=1e-9), "the cell is the mean over its labels"
    brier = np.mean([np.mean([brier_score_loss(g["y"], g["p"]) for _, g in f.groupby("label")]) for f in frames])
    assert pick(results.behind, "alpha", "calibration").loc["Brier", "value"] == pytest.approx(brier, abs=1e-9)


def test_subgroups_and_the_gap_of_the_worst(world: World) -> None:
    sex = np.where(np.arange(120) < 40, "F", "M")
    records = plant(world, sex=sex, view="PA", age=np.where(np.arange(120) < 3, 20.0, 50.0))
    women = set(records.loc[records["sex"] == "F", "image_id"])

    def spoil(frame: pd.DataFrame) -> pd.DataFrame:  # of the women's films nothing is known
        own = frame["image_id"].isin(women)
        return frame.assign(p=np.where(own, np.random.default_rng(5).random(len(frame)), frame["p"]))

    for seed in SEEDS:
        world.predict("probe", "rsna", "alpha", seed, spoil)
    found = compute(world.plan).behind
    frames, groups = predictions(world, "alpha"), pick(found, "alpha", "sex")
    parts = {"F": [f[f["image_id"].isin(women)] for f in frames], "M": [f[~f["image_id"].isin(women)] for f in frames]}
    for group, own in parts.items():
        assert groups.loc[group, "value"] == pytest.approx(np.mean([auroc(f) for f in own]), abs=1e-9)
    assert groups["n_test"].to_dict() == {"F": 40, "M": 80}
    gap = pick(found, "alpha", "sex gap").loc["F"]
    assert gap["value"] == pytest.approx(groups.loc["F", "value"] - groups.loc["M", "value"], abs=1e-9)
    assert gap["ci_low"] < gap["ci_high"] < 0
    assert (pick(found, "beta", "sex gap")["ci_high"] > 0).all(), "there is none in the other method"
    assert not len(pick(found, "alpha", "view")), "one view is no subgroup"
    assert "under 40" not in pick(found, "alpha", "age").index, f"three films are fewer than {CARRIERS} patients"


def test_the_pages_print_them(world: World, monkeypatch) -> None:
    plant(world, sex=np.where(np.arange(120) % 2, "F", "M"))
    monkeypatch.setattr("benchmarks.report.figures.draw", lambda *_: None)  # slow, and not looked at here
    build_tables(world.plan)
    text = (world.paths.results / "probe.md").read_text(encoding="utf-8")
    page = world.paths.leaderboard.with_suffix(".html").read_text(encoding="utf-8")
    table = pd.read_csv(world.paths.results / "breakdown.csv")
    assert set(table["kind"]) == {"label", "calibration", "sex", "sex gap"}
    for said in ("Subgroups", "sex F (60 films, ", "gap of the worst sex", "Calibration", "ECE"):
        assert said in text and said in page


def test_ages_fall_into_bands() -> None:
    bands = age_bands(pd.Series([0, 39.9, 40, 59, 60, 79, 80, 95, np.nan]))
    assert bands.tolist() == [*["under 40"] * 2, *["40-59"] * 2, *["60-79"] * 2, *["80 and over"] * 2, ""]
