"""Cells of a synthetic study: numbers against scikit-learn, and every way in which a cell can be missing."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import cells as cells_module
from benchmarks.cells import (
    COLUMNS,
    Column,
    Results,
    _Shared,
    compute,
    write_cells,
)
from benchmarks.scores.predictions import read_predictions, write_predictions
from mlip.errors import UserError
from tests.benchmarks.simulated import THREE_SEEDS, World, make_world


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    return make_world(tmp_path, monkeypatch)


@pytest.fixture
def seeds(tmp_path, monkeypatch) -> World:
    """The study with three pre-training seeds."""
    return make_world(tmp_path, monkeypatch, **THREE_SEEDS)


def pick(
    cells: pd.DataFrame,
    method: str,
    task: str = "probe",
    dataset: str = "rsna",
    fraction: int = 1,
    metric: str = "AUROC",
):
    found = cells[
        (cells["task"] == task) & (cells["dataset"] == dataset) & (cells["fraction"] == fraction)
        & (cells["metric"] == metric) & (cells["method"] == method)
    ]  # fmt: skip
    assert len(found) == 1
    return found.iloc[0]


def test_predictions_survive_the_disk_with_their_metadata(tmp_path):
    path = tmp_path / "a" / "seed0.parquet"
    frame = pd.DataFrame({"image_id": ["a", "b"], "scores": [[0.9, 0.5], []], "n_truth": [1, 0]})
    write_predictions(frame, path, {"seconds": 1.5, "seed": 0})
    found, meta = read_predictions(path)
    assert meta == {"seconds": 1.5, "seed": 0}
    assert [list(s) for s in found["scores"]] == [[0.9, 0.5], []] and list(found["image_id"]) == ["a", "b"]
    assert [p.name for p in path.parent.iterdir()] == ["seed0.parquet"]  # nothing partial
    path.write_text("no parquet", encoding="utf-8")
    with pytest.raises(UserError, match=r"seed0\.parquet: predictions cannot be read"):
        read_predictions(path)


def test_nothing_computed_yet_gives_every_cell_as_pending(world):
    cells = world.cells()
    assert list(cells.columns) == COLUMNS
    # probe: 2 data sets x 2 fractions x 2 metrics x 7 rows; direct: 2 metrics x 6 rows
    assert len(cells) == 2 * 2 * 2 * 6 + 2 * 6
    skipped = cells["status"] == "skipped"
    assert set(cells.loc[skipped, "method"]) == {"gamma"} and set(cells.loc[skipped, "task"]) == {"direct"}
    assert set(cells.loc[~skipped, "status"]) == {"pending"}
    assert cells["reason"].str.len().min() > 0 and cells["value"].isna().all()


def test_value_is_the_mean_over_draws_of_scikit_learn_s(world):
    path = world.predict("probe", "rsna", "alpha")
    frame, _ = read_predictions(path)
    cell = pick(world.cells(), "alpha")
    expected = [roc_auc_score(g["y"], g["p"]) for _, g in frame[frame["fraction"] == 1].groupby(["draw", "label"])]
    assert len(expected) == 4 and cell["value"] == pytest.approx(np.mean(expected))
    assert cell["ci_low"] < cell["value"] < cell["ci_high"]
    assert (cell["seed_count"], cell["draw_count"], cell["n_test"], cell["seconds"]) == (1, 2, 120, 2.5)
    truth = frame[(frame["fraction"] == 1) & (frame["draw"] == 0)].groupby("label")["y"].sum()
    assert cell["positives"] == truth.min()
    assert pick(world.cells(), "alpha", fraction=100)["draw_count"] == 1


def column_of(results: Results, fraction: int = 100) -> Column:
    return next(c for c in results.columns if c.key[::4] == ("probe", fraction) and c.dataset == "rsna" and c.main)


def test_a_full_study_ranks_methods_and_not_controls(seeds):
    seeds.fill()
    results: Results = compute(seeds.plan)
    cells = results.cells
    assert set(cells["status"]) == {"ok", "skipped"}
    ranks = {m: tuple(pick(cells, m, fraction=100)[["rank", "rank_high"]]) for m in ("alpha", "beta", "gamma")}
    assert ranks == {"alpha": (1, 2), "beta": (1, 2), "gamma": (3, 3)}
    ahead = {m: pick(cells, m, fraction=100)["ahead_of"] for m in ("alpha", "beta", "gamma")}
    assert ahead == {"alpha": "gamma", "beta": "gamma", "gamma": ""}
    assert all(pd.isna(pick(cells, m, fraction=100)["rank"]) for m in ("noise", "noise-vit", "constant"))
    column = column_of(results)
    assert column.above_controls == {"alpha": True, "beta": True, "gamma": True}
    assert [column.bold(m) for m in ("alpha", "beta", "gamma")] == [True, True, False]
    assert (column.floor, column.floor_of) == (0.5, "chance")
    assert column.ranking.separable == 2 and not column.unranked
    assert pick(cells, "constant")["value"] == 0.5


def test_one_seed_gives_no_rank_no_bold_and_a_reason(world):
    world.fill(("probe",), ("rsna",))
    results = compute(world.plan)
    column = column_of(results)
    assert results.cells["rank"].isna().all() and not column.bold("alpha")
    assert "one pre-training seed" in column.unranked and "draw" not in column.unranked
    assert np.isnan(pick(results.cells, "alpha")["se_seeds"])


def test_one_draw_of_the_labels_is_treated_as_one_seed_is(tmp_path, monkeypatch):
    tasks = {"probe": {"datasets": ["rsna"], "protocols": ["plain"], "fractions": [1, 100], "draws": 1}}
    world = make_world(tmp_path, monkeypatch, **THREE_SEEDS, tasks=tasks)
    world.fill(("probe",))
    results = compute(world.plan)
    assert "one draw of the labels at 1 %" in column_of(results, 1).unranked
    assert not column_of(results, 100).unranked  # all labels leave no choice
    assert pick(results.cells, "alpha", fraction=100)["se_draws"] == 0
    assert np.isnan(pick(results.cells, "alpha")["se_draws"])


def test_a_row_without_seeds_has_no_seed_variance_and_is_compared(seeds):
    """``noise`` is a method with ``seeded: false``, ``constant`` a control of the task: one file each beside three."""
    seeds.fill(("probe",), ("rsna",))
    results = compute(seeds.plan)
    for name in ("noise", "constant"):
        cell = pick(results.cells, name)
        assert (cell["seed_count"], cell["se_seeds"]) == (1, 0)
    assert column_of(results).above_controls["alpha"]
    assert pick(results.cells, "alpha")["se_seeds"] >= 0


def test_nothing_is_bold_below_or_beside_a_control(seeds):
    """A control as good as the methods: they are ranked, and none is bold."""
    seeds.fill(("probe",), ("rsna",))
    good = read_predictions(seeds.paths.predictions("probe", "plain", "rsna", "alpha", 0))[0]
    seeds.predict("probe", "rsna", "noise", change=lambda _: good)
    results = compute(seeds.plan)
    column = column_of(results)
    assert column.ranking.ranks["alpha"] == (1, 2)
    assert not any(column.above_controls.values()) and not any(column.bold(m) for m in column.ranking.ranks)


def test_nothing_is_bold_where_a_control_failed(seeds):
    seeds.fill(("probe",), ("rsna",))
    seeds.fail_evaluation("probe", "rsna", "noise", "out of memory")
    column = column_of(compute(seeds.plan))
    assert column.ranking.ranks["alpha"] == (1, 2) and not column.bold("alpha")


def test_a_new_method_leaves_the_numbers_of_the_others_alone(seeds):
    for method in ("alpha", "gamma", "noise"):
        for seed in (0, 1, 2):
            seeds.predict("probe", "rsna", method, seed if method != "noise" else 0)
    before = seeds.cells()
    for seed in (0, 1, 2):
        seeds.predict("probe", "rsna", "beta", seed)
    after = seeds.cells()
    beside = ["rank", "rank_high", "above_controls", "ahead_of"]  # what compares a method with others
    for method in ("alpha", "gamma", "noise"):
        pd.testing.assert_series_equal(pick(before, method).drop(beside), pick(after, method).drop(beside))
    pd.testing.assert_frame_equal(after, seeds.cells())


def test_failed_cells_keep_their_reason(seeds):
    seeds.fill(("probe",), ("rsna",))
    seeds.fail_evaluation("probe", "rsna", "alpha", "loss is\nNaN")
    cell = pick(seeds.cells(), "alpha")
    assert (cell["status"], cell["reason"]) == ("failed", "seed 0: loss is NaN")  # although older predictions are there
    assert np.isnan(cell["value"]) and pd.isna(cell["rank"])
    assert pick(seeds.cells(), "beta")["rank"] == 1


def drop_draw(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["draw"] == 0]


def other_images(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["image_id"] < "rsna0100"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop_draw, "lack draw 1 at 1 %"),
        (other_images, "100 test images that differ from the other rows' 120"),
        (lambda f: f[(f["fraction"] == 1) | (f["image_id"] != "rsna0003")], "draw 0 at 100 % lack test images"),
        (lambda f: f.drop(columns="p"), "lack the columns p"),
        (lambda f: f.assign(p=np.nan), "240 of 240 scores are not finite"),
        (lambda f: f.assign(y=0.0), "'Edema' has only negatives among 120"),
    ],
)
def test_predictions_that_do_not_fit_fail_their_own_cell_only(world, change, reason):
    world.fill(("probe",), ("rsna",))
    world.predict("probe", "rsna", "beta", change=change)
    cells = world.cells()
    cell = pick(cells, "beta")
    assert cell["status"] == "failed" and reason in cell["reason"]
    assert pick(cells, "alpha")["status"] == "ok"


def test_unreadable_predictions_fail_their_cell(world):
    world.fill(("probe",), ("rsna",))
    world.paths.predictions("probe", "plain", "rsna", "beta", 0).write_bytes(b"PAR1 broken")
    assert "cannot be read" in pick(world.cells(), "beta")["reason"]


def test_a_cell_needs_all_its_seeds(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch, pretrain={"datasets": ["rsna"], "seeds": [0, 1, 2]})
    world.predict("probe", "rsna", "alpha", 0)
    world.predict("probe", "rsna", "alpha", 2)
    world.predict("probe", "rsna", "constant")
    cell = pick(world.cells(), "alpha")
    assert (cell["status"], cell["reason"]) == ("pending", "not computed yet (seeds 1 of 3)")
    world.fail_evaluation("probe", "rsna", "alpha", "out of memory", 1)
    cell = pick(world.cells(), "alpha")
    assert (cell["status"], cell["reason"]) == ("failed", "seed 1: out of memory")
    world.predict("probe", "rsna", "alpha", 1)
    cells = world.cells()
    assert pick(cells, "alpha")["status"] == "ok" and pick(cells, "alpha")["seed_count"] == 3
    assert pick(cells, "constant")["seed_count"] == 1  # controls have one seed


def test_cells_csv_reads_back(world, tmp_path):
    world.fill(("probe",), ("rsna",))
    cells = world.cells()
    write_cells(cells, tmp_path / "cells.csv")
    again = pd.read_csv(tmp_path / "cells.csv")
    assert list(again.columns) == COLUMNS and len(again) == len(cells)
    np.testing.assert_allclose(again["value"], cells["value"], atol=1e-6)
    assert list(again["reason"].fillna("")) == list(cells["reason"])
    assert again["rank"].notna().sum() == cells["rank"].notna().sum()


def test_a_task_that_does_not_exist_is_named(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch, tasks={"juggling": {"datasets": ["rsna"]}})
    with pytest.raises(UserError, match="juggling"):
        world.cells()


def test_predictions_of_other_code_or_configuration_are_stale(world):
    world.fill(("probe",), ("rsna",))
    path = world.paths.predictions("probe", "plain", "rsna", "alpha", 0)
    frame, meta = read_predictions(path)
    write_predictions(frame, path, {**meta, "fingerprint": "0" * 16})
    cell = pick(world.cells(), "alpha")
    assert cell["status"] == "stale" and "other code or another configuration" in cell["reason"]
    assert np.isnan(cell["value"]) and pick(world.cells(), "beta")["status"] == "ok"


def test_a_failed_training_is_the_reason_of_its_cells_and_its_old_numbers_stand_nowhere(world):
    world.fill()
    world.fail("pretrain", "alpha", 0, reason="the loss is NaN", fingerprint=world.plan.training("alpha", 0).key)
    cells = world.cells()
    own = cells[cells["method"] == "alpha"]
    assert set(own["status"]) == {"failed"} and own["value"].isna().all()
    assert set(own["reason"]) == {"pre-training failed: the loss is NaN"}
    assert set(cells.loc[cells["method"] == "beta", "status"]) == {"ok"}


def test_a_failure_of_earlier_code_is_no_reason_today(world):
    world.fail("pretrain", "alpha", 0, reason="the loss is NaN", fingerprint="0" * 16)
    assert pick(world.cells(), "alpha")["reason"] == "not computed yet"


@pytest.mark.parametrize(
    ("stage", "names", "words"),
    [
        ("data", ("rsna",), "the data set rsna failed: no room"),
        ("splits", ("rsna",), "the splits of rsna failed: no room"),
        ("audit", (), "the audit found faults: no room"),
    ],
)
def test_what_failed_before_is_named(world, stage, names, words):
    prints = world.plan.fingerprints
    wanted = {"data": prints.store, "splits": prints.splits, "audit": prints.audit}[stage](*names)
    world.fail(stage, *names, reason="no room", fingerprint=wanted.key)
    assert pick(world.cells(), "alpha")["reason"] == words
    assert pick(world.cells(), "constant")["reason"] == words


def test_a_broken_method_folder_is_a_failed_row(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch)
    world.fill()
    (tmp_path / "methods" / "beta" / "model.py").write_text("def broken(:\n", encoding="utf-8")
    broken = World(world.study, world.paths)
    cells = broken.cells()
    own = cells[cells["method"] == "beta"]
    assert set(own["status"]) == {"failed"} and own["value"].isna().all() and own["rank"].isna().all()
    assert (
        own["reason"].str.contains("model.py: is no valid Python").all() and own["reason"].str.contains("line 1").all()
    )
    assert pick(cells, "alpha")["status"] == "ok"


def test_kept_trainings_of_older_code_are_marked(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch, pretrain={"datasets": ["rsna"], "on_code_change": "mark"})
    world.fill()
    monkeypatch.setattr("mlip.fingerprints.code_of", lambda modules, *_: f"other code of {modules}")
    edited = World(world.study, world.paths)
    for block in edited.plan.blocks:  # evaluations are made anew; the trainings behind them are the old ones
        for row in block.rows:
            path = world.paths.predictions(block.task_name, "plain", block.dataset, row.name, 0)
            if path.is_file():
                frame, meta = read_predictions(path)
                key = edited.plan.evaluation(block.task_name, "plain", block.dataset, row.name, 0).key
                write_predictions(frame, path, {**meta, "fingerprint": key})
    results = compute(edited.plan)
    assert set(results.older) == {"alpha", "beta", "gamma", "noise", "noise-vit"}
    assert pick(results.cells, "alpha")["status"] == "ok"
    assert compute(world.plan).older == {}


def test_a_failure_of_the_knowledge_is_no_reason_for_rows_that_do_not_read_it(world):
    world.fill()
    world.fail("knowledge", reason="no ontology", fingerprint=world.plan.fingerprints.knowledge().key)
    assert not any(entry.reads_knowledge for entry in world.plan.rows.values())
    assert set(world.cells()["status"]) == {"ok", "skipped"}


def test_rows_in_processes_of_their_own_give_the_same_numbers(seeds, monkeypatch):
    seeds.fill()
    alone, here = compute(seeds.plan), os.getpid()
    monkeypatch.setattr(cells_module, "MANY", 1)
    numbers, homes = _Shared.numbers, []

    def elsewhere(self, row):
        homes.append(row.name)  # of the process that it runs in
        assert os.getpid() != here
        return numbers(self, row)

    monkeypatch.setattr(_Shared, "numbers", elsewhere)
    together = compute(seeds.plan, workers=2)
    assert homes == []
    pd.testing.assert_frame_equal(together.cells, alone.cells)
    pd.testing.assert_frame_equal(together.behind, alone.behind)
    assert [c.ranking.ranks for c in together.columns] == [c.ranking.ranks for c in alone.columns]
