"""Comparing two runs: the same agrees, noise of trainings agrees, a fault is seen, and what cannot be compared is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmarks.plan import resolve
from benchmarks.report.build import build_tables
from benchmarks.report.compare import AGREES, MOVED, NOT_COMPARABLE, RARE, Run, compare, page
from benchmarks.report.made import made_json
from mlip.errors import UserError
from mlip.run.cli import app
from mlip.study import load_study
from tests.benchmarks.simulated import complete_study, make_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    with complete_study(tmp_path_factory.mktemp("run")) as world:
        return world.paths.results


def changed(folder: Path, tmp_path: Path, change, **made) -> Run:
    """A copy of the run with other cells and other facts."""
    copy = tmp_path / "other"
    shutil.copytree(folder, copy)
    cells = pd.read_csv(copy / "cells.csv")
    left = change(cells)
    (cells if left is None else left).to_csv(copy / "cells.csv", index=False)
    facts = json.loads((copy / "made.json").read_text(encoding="utf-8")) | made
    (copy / "made.json").write_text(json.dumps(facts), encoding="utf-8")
    return Run.read(copy)


def test_a_run_reproduces_itself(folder):
    run = Run.read(folder)
    found = compare(run, run)
    assert found.reproduces and found.chance == 1 and not len(found.reversed) and not found.differs
    there = run.cells["status"] == "ok"
    assert (found.cells["verdict"] == AGREES).sum() == there.sum()
    assert found.separable == 0 or not found.reversed["separably"].any()
    assert "reproduces the first" in page(run, run, found)


def test_other_trainings_agree_and_a_shifted_method_does_not(folder, tmp_path):
    rng, run = np.random.default_rng(0), Run.read(folder)

    def as_other_trainings(cells):
        # As far as two means of three trainings are apart.
        spread = cells["sd_trainings"].fillna(0).to_numpy() * np.sqrt(2 / 3)
        cells["value"] += rng.normal(size=len(cells)) * spread

    found = compare(run, changed(folder, tmp_path / "a", as_other_trainings))
    assert found.reproduces and found.chance > RARE

    def a_fault(cells):
        cells.loc[cells["method"] == "alpha", "value"] -= 0.2

    found = compare(run, changed(folder, tmp_path / "b", a_fault))
    assert (found.cells.loc[found.cells["method"] == "alpha", "verdict"] == MOVED).all()
    assert found.chance < RARE and not found.reproduces


def test_pairs_that_turn_round_are_counted(folder, tmp_path):
    run = Run.read(folder)
    key = ["task", "protocol", "dataset", "metric", "fraction"]
    column = tuple(run.cells[run.cells["task"] == "probe"].iloc[0][key])
    here = (run.cells[key] == column).all(axis=1)
    first, second = run.cells.copy(), run.cells.copy()
    for table, order in ((first, ("alpha", "beta", "gamma")), (second, ("gamma", "beta", "alpha"))):
        for place, name in enumerate(order):
            cell = here & (table["method"] == name)
            table.loc[cell, "ahead_of"] = " ".join(order[place + 1 :])
            table.loc[cell, "value"] = 0.9 - 0.1 * place
    found = compare(Run(folder, first[here], run.made), Run(folder, second[here], run.made))
    assert found.separable == 3 and len(found.reversed) == 3 and found.reversed["separably"].all()
    assert not found.reproduces
    second["ahead_of"] = np.nan  # the second orders them the other way round and tells none apart
    unsure = compare(Run(folder, first[here], run.made), Run(folder, second[here], run.made))
    assert len(unsure.reversed) == 3 and not unsure.reversed["separably"].any()


def test_pairs_told_apart_are_those_of_the_tables(folder):
    run = Run.read(folder)
    told = run.cells["ahead_of"].fillna("").str.split()
    assert compare(run, run).separable == told.str.len().sum() > 0
    ranked = run.cells[told.str.len() > 0]
    assert not {"constant", "noise"} & {name for names in told for name in names}  # controls take no rank
    assert (ranked["rank_high"] <= 3 - told[ranked.index].str.len()).all()


def test_a_control_that_differs_is_a_fault_on_one_machine_only(folder, tmp_path):
    def change(cells):
        cells.loc[(cells["method"] == "constant") & (cells["metric"] == "AUROC"), "value"] += 0.001

    run = Run.read(folder)
    here = compare(run, changed(folder, tmp_path / "a", change))
    assert len(here.controls) and not here.reproduces
    there = compare(run, changed(folder, tmp_path / "b", change, machines=["cpu: another"]))
    assert len(there.controls) and there.reproduces and any("machine" in line for line in there.differs)


def test_what_cannot_be_compared_is_said(folder, tmp_path):
    def change(cells):
        cells.loc[(cells["method"] == "alpha") & (cells["task"] == "probe"), "status"] = "failed"
        cells.loc[cells["method"] == "beta", "n_test"] = 7
        return cells[cells["method"] != "gamma"]

    run = Run.read(folder)
    found = compare(run, changed(folder, tmp_path, change)).cells.set_index("method")
    assert set(found.loc["alpha", "reason"]) >= {"failed in one run"}
    assert found.loc["beta", "reason"].str.contains("against 7").all()
    assert (found.loc["gamma", "reason"] == "only in one run").all()
    assert (found.loc["gamma", "verdict"] == NOT_COMPARABLE).all()
    with pytest.raises(UserError, match=r"cells.csv: is not there"):
        Run.read(tmp_path)


def test_means_of_other_label_draws_are_not_compared(folder, tmp_path):
    run = Run.read(folder)

    def more_draws(cells):
        cells.loc[(cells["task"] == "probe") & (cells["fraction"] == 1), "draw_count"] += 1

    found = compare(run, changed(folder, tmp_path, more_draws)).cells
    few = (found["task"] == "probe") & (found["fraction"] == 1)
    assert few.sum() > 10 and set(found.loc[few, "verdict"]) == {NOT_COMPARABLE}
    assert set(found.loc[few & (found["status_a"] == "ok"), "reason"]) == {"2 draws of the labels against 3"}
    assert AGREES in set(found.loc[~few, "verdict"])


def test_a_protocol_that_differs_is_named(folder, tmp_path):
    run = Run.read(folder)
    name, settings = next(iter(run.made["protocols"].items()))
    other = run.made["protocols"] | {name: settings | {"name": "lenient"}}
    found = compare(run, changed(folder, tmp_path, lambda cells: None, protocols=other))
    assert found.differs == [f"protocol {name}, `name`: {settings['name']} against lenient"]
    older = Run(run.folder, run.cells, {key: value for key, value in run.made.items() if key != "protocols"})
    (line,) = compare(older, run).differs
    assert line.startswith("protocols: not known") and str(run.folder) in line


def test_made_json_holds_what_moves_a_number_and_no_words():
    plan = resolve(load_study(Path("config/smoke.yaml")))
    made = json.loads(made_json(plan))["protocols"]
    assert list(made) == sorted(f"{block.task_name} {block.protocol_name} {block.dataset}" for block in plan.blocks)
    for block in plan.blocks:
        settings = made[f"{block.task_name} {block.protocol_name} {block.dataset}"]
        assert {*block.task.scored_later} <= settings.keys() and not {"title", "lineage", "quirks"} & settings.keys()
    assert {name.split()[0]: s for name, s in made.items()}["detection"]["patience"] == 5


def test_one_training_in_both_runs_cannot_be_compared(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch)
    world.fill()
    build_tables(world.plan)
    run = Run.read(world.paths.results)
    found = compare(run, run)
    own = found.cells[found.cells["method"].isin(["alpha", "beta"])]
    assert set(own["reason"]) == {"one training in both runs"}
    assert (found.cells.loc[found.cells["method"] == "constant", "verdict"] == AGREES).all()


def test_the_command(folder, tmp_path):
    out = tmp_path / "page.md"
    result = CliRunner().invoke(app, ["compare", str(folder), str(folder), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "reproduces the first" in out.read_text(encoding="utf-8") and "Cells:" in result.output


def test_made_json_holds_no_path_of_this_machine(folder):
    text = (folder / "made.json").read_text(encoding="utf-8")
    assert str(folder.parent.parent) not in text and '"root"' not in text
    assert json.loads(text)["rows"]["constant"]["control"]
