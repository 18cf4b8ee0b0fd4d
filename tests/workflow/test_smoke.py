"""The smoke study, run for real: every rule, every method, every task, every table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.analyses.map_scores import CENTRE, OUTLINES
from benchmarks.plan import resolve
from benchmarks.tasks.catalogue import tasks
from mlip.methods import entries
from mlip.paths import StudyPaths
from tests.workflow.conftest import Run, snakemake
from tests.workflow.recompute import recompute

pytestmark = pytest.mark.study


def test_every_cell_has_a_value_or_a_reason(smoke: Run) -> None:
    cells = pd.read_csv(StudyPaths(smoke.study).cells)
    assert set(cells["status"]) <= {"ok", "skipped"}, cells[~cells["status"].isin(["ok", "skipped"])]
    assert cells.loc[cells["status"] == "ok", "value"].notna().all()
    assert cells.loc[cells["status"] == "skipped", "reason"].notna().all()
    for task in smoke.study.tasks:
        rows = set(cells.loc[cells["task"] == task, "method"])
        assert rows == set(entries(smoke.study)[0]) | set(tasks()[task].controls)


def test_every_prediction_file_is_there(smoke: Run) -> None:
    paths = StudyPaths(smoke.study)
    for e in resolve(smoke.study).evaluations:
        assert paths.predictions(e.task, e.protocol, e.dataset, e.row, e.seed).is_file()


def test_first_line_names_the_data(smoke: Run) -> None:
    paths = StudyPaths(smoke.study)
    for path in [paths.leaderboard, *paths.results.glob("*.md")]:
        assert "VIRTUAL PATIENTS" in path.read_text(encoding="utf-8").splitlines()[0], path


def test_cards_state_cost_and_versions(smoke: Run) -> None:
    paths = StudyPaths(smoke.study)
    for name, entry in entries(smoke.study)[0].items():
        card = json.loads((paths.pretrain(name, 0) / "card.json").read_text(encoding="utf-8"))
        assert card["versions"]["torch"] and card["commit"] and card["parameters_total"] > 0
        lines = (paths.pretrain(name, 0) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == card["steps"]
        if entry.manifest.trained:
            assert card["seconds"] > 0 and card["samples_per_second"] > 0
            assert card["flops_per_step"] > 1e6 and card["peak_memory_bytes"] > 1e8
            assert [json.loads(line)["step"] for line in lines] == list(range(card["steps"]))


def test_nothing_to_do_again(smoke: Run) -> None:
    done = snakemake("--cores", "2", "--configfile", str(smoke.config))
    assert "Nothing to be done" in done.stdout + done.stderr


def test_results_hold_no_raw_ids_and_no_report_text(smoke: Run) -> None:
    """Raw identifiers of the MIMIC layout, and sentences of its reports, appear in no result and no log."""
    paths = StudyPaths(smoke.study)
    raw = paths.raw("mimic")
    ids = {p.name for p in raw.glob("files/p*/p*")} | {p.stem for p in raw.glob("files/p*/p*/s*.txt")}
    ids |= {p.stem for p in raw.glob("files/p*/p*/s*/*.jpg")}
    assert len(ids) > 50
    sentences = {
        s
        for p in list(raw.glob("files/p*/p*/s*.txt"))[:20]
        for s in p.read_text(encoding="utf-8").splitlines()
        if len(s) > 40
    }
    files = [
        p
        for root in (paths.results, paths.work / "logs", paths.work / "predictions")
        for p in root.rglob("*")
        if p.is_file()
    ]
    files += [paths.leaderboard, paths.audit]
    assert len(files) > 50
    for path in files:
        if path.suffix == ".png":
            continue
        text = _text(path)
        assert not [i for i in ids if i in text], path
        assert not [s for s in sentences if s in text], path


def _text(path: Path) -> str:
    if path.suffix == ".parquet":
        return pd.read_parquet(path).to_csv()
    if path.suffix == ".npz":  # the masks of a few films
        with np.load(path, allow_pickle=False) as kept:
            return " ".join(kept.files + kept["image_id"].tolist())
    return path.read_text(encoding="utf-8")


def test_tables_come_from_predictions_alone(smoke: Run, tmp_path: Path) -> None:
    """Tables are recomputed, byte for byte, after every checkpoint, feature and image is gone."""
    import shutil

    from benchmarks.report.build import build_tables

    paths = StudyPaths(smoke.study)
    moved = smoke.study.model_copy(update={"work": tmp_path / "work", "results": tmp_path / "results"})
    copied = StudyPaths(moved)
    shutil.copytree(paths.work / "predictions", copied.work / "predictions")
    build_tables(resolve(moved))
    assert copied.cells.read_text(encoding="utf-8") == paths.cells.read_text(encoding="utf-8")


def test_the_page_shows_films_costs_and_every_task(smoke: Run) -> None:
    page = StudyPaths(smoke.study).leaderboard.with_suffix(".html").read_text(encoding="utf-8")
    for drawn in ("<h3>Detection on object_cxr", "<h3>Segmentation on siim"):
        after = page[page.index(drawn) :][:200_000]
        assert all(part in after for part in ('class="truth"', 'class="found"', "data:image/jpeg"))
    assert "<polygon" in page and "operations (TFLOP)" in page
    assert all(task in page for task in smoke.study.tasks)


def test_snakemakes_own_report_holds_the_tables_and_figures(smoke: Run, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    snakemake("--configfile", str(smoke.config), "--report", str(file))
    text = file.read_text(encoding="utf-8")
    paths = StudyPaths(smoke.study)
    held = [paths.leaderboard, paths.leaderboard.with_suffix(".html"), paths.cells]
    held += [paths.results / f"{task}.md" for task in smoke.study.tasks]
    held += [paths.results / "figures" / f"{task}.png" for task in smoke.study.tasks]
    assert all(path.name in text for path in held)
    assert all(category in text for category in ("Leaderboard", "Page", "Cells", "Tasks", "Figures"))


def test_analyses_are_made_and_linked(smoke: Run) -> None:
    paths, page = StudyPaths(smoke.study), StudyPaths(smoke.study).leaderboard.read_text(encoding="utf-8")
    for name, entry in entries(smoke.study)[0].items():
        wanted = "maps" in entry.manifest.capabilities
        for kind in ("png", "csv"):
            assert (paths.maps / f"{name}.{kind}").is_file() == wanted
            assert (f"maps/{name}.{kind}" in page) == wanted
    assert (
        "# Where the rows look" in page and "fewer than 20 patients" in page
    )  # of so small a study only the files have numbers
    for file in paths.maps.glob("*.csv"):
        asked = set(pd.read_csv(file)["map"])
        assert any(name.endswith("presence minus absence") for name in asked) and {CENTRE, OUTLINES} < asked
    assert paths.false_negatives.is_file() and paths.false_negatives.name in page


def test_every_cell_is_computed_again_by_other_peoples_code(smoke: Run) -> None:
    cells = pd.read_csv(StudyPaths(smoke.study).cells)
    again = recompute(resolve(smoke.study))
    both = cells[cells["status"] == "ok"].merge(again, on=[c for c in again if c != "again"], how="left")
    assert len(both) > 50 and both["again"].notna().all()
    off = both[(both["value"] - both["again"]).abs() > 1.1e-6]  # cells.csv has six decimals
    assert off.empty, off[["task", "metric", "fraction", "method", "value", "again"]].to_string()
