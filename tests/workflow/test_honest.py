"""A number stands only where today's code and configuration made it, and a dry run changes nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks.plan import resolve
from mlip.study import load_study, parse_study
from tests.conftest import ROOT
from tests.workflow.conftest import Run, copy_of_sources, mini_study, snakemake

pytestmark = pytest.mark.study
ROW = "isbi24"


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()
    }


def copied(smoke: Run, target: Path) -> Path:
    """The finished study in a folder of the test's own; Snakemake has no memory of that one."""
    shutil.copytree(smoke.folder / "work", target / "work", symlinks=True)
    shutil.copytree(smoke.folder / "results", target / "results")
    config = yaml.safe_load(smoke.config.read_text(encoding="utf-8"))
    path = target / "smoke.yaml"
    changed = {**config, "work": str(target / "work"), "results": str(target / "results")}
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    return path


def test_a_dry_run_with_an_edited_file_changes_nothing(smoke: Run, tmp_path: Path) -> None:
    config = yaml.safe_load(smoke.config.read_text(encoding="utf-8"))
    config["tasks"]["few_shot"]["draws"] = 7
    edited = tmp_path / "edited.yaml"
    edited.write_text(yaml.safe_dump(config), encoding="utf-8")
    before = state_of(smoke.folder)
    done = snakemake("-n", "--cores", "2", "--configfile", str(edited))
    assert "rule evaluate:" in done.stdout + done.stderr
    assert state_of(smoke.folder) == before


def test_another_configuration_has_a_resolved_study_of_its_own(smoke: Run) -> None:
    names = {p.stem for p in (smoke.folder / "work" / "smoke" / "resolved").glob("*.json")}
    assert names and all(re.fullmatch("[0-9a-f]{16}", name) for name in names)


def old_numbers(results: Path) -> set[str]:
    """What the tables printed of the row: value and interval, as they stand in the pages."""
    cells = pd.read_csv(results / "smoke" / "cells.csv")
    own = cells[(cells["method"] == ROW) & (cells["status"] == "ok")]
    return {f"{100 * c.value:.1f} [{100 * c.ci_low:.1f}, {100 * c.ci_high:.1f}]" for c in own.itertuples()}


def rows_of_pages(results: Path) -> list[str]:
    pages = [results / "smoke.md", *(results / "smoke").glob("*.md")]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.startswith(("| MLIP (ISBI", f"| {ROW} "))]


def assert_no_number_of_the_row(results: Path, reason: str) -> None:
    cells = pd.read_csv(results / "smoke" / "cells.csv")
    own, others = cells[cells["method"] == ROW], cells[cells["method"] == "cvpr24"]
    assert set(own["status"]) == {"failed"} and own["value"].isna().all() and own["rank"].isna().all()
    assert own["reason"].str.contains(reason, regex=False).all(), own["reason"].unique()
    assert set(others["status"]) == {"ok"}
    rows = rows_of_pages(results)
    assert rows and not [line for line in rows if re.search(r"\d\.\d \[", line)]
    assert f"maps/{ROW}.png" not in (results / "smoke.md").read_text(encoding="utf-8")


def test_a_syntax_error_fails_its_row_and_no_other(smoke: Run, tmp_path: Path) -> None:
    config, checkout = copied(smoke, tmp_path), copy_of_sources(tmp_path / "checkout")
    assert old_numbers(tmp_path / "results")
    model = checkout / "mlip" / ROW / "model.py"
    model.write_text(model.read_text(encoding="utf-8") + "\ndef broken(:\n", encoding="utf-8")
    done = snakemake("--cores", "2", "--configfile", str(config), cwd=checkout)
    said = done.stdout + done.stderr
    assert f"row {ROW} will be shown as failed" in said and "rule pretrain" not in said
    assert_no_number_of_the_row(tmp_path / "results", "model.py: is no valid Python")


def test_a_failing_training_fails_its_row_and_no_other(smoke: Run, tmp_path: Path) -> None:
    config, checkout = copied(smoke, tmp_path), copy_of_sources(tmp_path / "checkout")
    model = checkout / "mlip" / ROW / "model.py"
    text = model.read_text(encoding="utf-8")
    found = re.search(r"def represent\(self, batch: Batch\)[^\n]*:\n", text)
    assert found
    model.write_text(
        text[: found.end()] + "        raise RuntimeError('the part is not there')\n" + text[found.end() :],
        encoding="utf-8",
    )
    done = snakemake("--cores", "2", "--configfile", str(config), cwd=checkout, check=False)
    assert done.returncode != 0
    assert_no_number_of_the_row(tmp_path / "results", "pre-training failed: RuntimeError: the part is not there")
    # The reason outlives neither the fault nor the old numbers' right to stand: mended, the row is there again.
    model.write_text(text, encoding="utf-8")
    snakemake("--cores", "2", "--configfile", str(config), cwd=checkout)
    cells, before = (
        pd.read_csv(folder / "smoke" / "cells.csv") for folder in (tmp_path / "results", smoke.folder / "results")
    )
    pd.testing.assert_frame_equal(cells.drop(columns="seconds"), before.drop(columns="seconds"))


def test_data_sets_may_be_called_anything(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "config" / "twin.yaml").read_text(encoding="utf-8"))
    config["datasets"] = {f"my_{name}": values for name, values in config["datasets"].items()}
    for part in (config["pretrain"], *config["tasks"].values()):
        part["datasets"] = [f"my_{name}" for name in part["datasets"]]
    plan = resolve(parse_study(config, where="renamed"), look=False)
    assert {"my_rsna", "my_siim", "my_chexpert_5x200", "my_covidx", "my_mimic"} <= {b.dataset for b in plan.blocks}
    assert len(plan.blocks) == len(resolve(load_study(ROOT / "config" / "twin.yaml"), look=False).blocks)


def test_the_run_says_where_its_page_is_whatever_the_file_is_called(tmp_path: Path) -> None:
    config = mini_study(tmp_path, study="other-name")
    done = snakemake("--cores", "2", "--configfile", str(config))
    page = tmp_path / "results" / "other-name.md"
    assert page.is_file() and f"leaderboard {page}" in done.stdout + done.stderr
