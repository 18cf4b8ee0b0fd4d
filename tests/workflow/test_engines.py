"""How the workflow behaves under Snakemake's engines and other commands; a real Slurm stands in tests/workflow/slurm."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.workflow.conftest import Run, mini_study, snakemake

pytestmark = pytest.mark.study


def test_resources_are_no_reason_to_repeat(smoke: Run) -> None:
    more = ("--set-resources", "pretrain:mem_mb=99999", "evaluate:runtime=7", "--resources", "gpu=3")
    said = snakemake("-n", "--configfile", str(smoke.config), "--set-threads", "evaluate=2", *more)
    assert "Nothing to be done" in said.stdout + said.stderr


def test_gpus_are_asked_for_where_there_are_some(tmp_path: Path) -> None:
    config = str(mini_study(tmp_path))
    said = snakemake("-n", "--configfile", config, MLIP_GPUS="2").stdout
    asked = dict(re.findall(r"^rule (\w+):.*?resources: ([^\n]*)", said, flags=re.M | re.S))
    with_gpu = {rule for rule, resources in asked.items() if "gpu=1" in resources}
    assert with_gpu == {"pretrain", "features"} and {"splits", "evaluate", "tables"} <= asked.keys()
    assert all(re.search(r"mem_mb=\d+", asked[rule]) and "runtime=" in asked[rule] for rule in asked if rule != "study")


@pytest.mark.slow
def test_snakemakes_scheduler_passes_once_for_each_job(tmp_path: Path) -> None:
    """With its limit of jobs per second it passes ever more often while jobs run: 84 times here."""
    tasks = {
        "linear_probe": {"datasets": ["rsna"], "fractions": [100]},
        "few_shot": {"datasets": ["rsna"], "fractions": [1]},
    }
    config = mini_study(tmp_path, tasks=tasks, methods={"include": ["random", "thumbnail"]})
    said = snakemake("--cores", "1", "--verbose", "--configfile", str(config))
    jobs = int(re.findall(r"(\d+) of \1 steps", said.stdout + said.stderr)[-1])
    passes = (said.stdout + said.stderr).count("Resources before job selection")
    assert jobs // 2 < passes <= jobs + 2


@pytest.mark.slow
@pytest.mark.parametrize(("study", "figure"), [("ablation", "ablation"), ("efficiency", "pairs")])
def test_a_report_holds_the_figures_that_only_some_studies_have(study: str, figure: str) -> None:
    said = snakemake("-n", "--forcerun", "tables", "--configfile", f"config/{study}.yaml").stdout
    assert f"results/{study}/figures/{figure}.png" in said and "figures/zero_shot.png" in said


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--summary", "--rulegraph", "--unlock", "--lint", "--list-rules"])
def test_nothing_needs_a_number_of_cores(command: str, tmp_path: Path) -> None:
    snakemake(command, "--configfile", str(mini_study(tmp_path)))


@pytest.mark.slow
def test_a_report_needs_no_number_of_cores(smoke: Run, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    snakemake("--report", str(page), "--configfile", str(smoke.config))
    assert page.stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("conda"), reason="there is no conda here")
def test_conda_after_a_plain_run_repeats_nothing(smoke: Run) -> None:
    """The pins are the same (workflows/envs), so `software-env` is no trigger in the profiles."""
    said = snakemake("-n", "--use-conda", "--configfile", str(smoke.config))
    assert "Nothing to be done" in said.stdout + said.stderr


@pytest.mark.slow
def test_a_profile_takes_the_place_of_the_default_one(smoke: Run) -> None:
    said = snakemake("-n", "--workflow-profile", "profiles/workstation", "--configfile", str(smoke.config))
    assert "Nothing to be done" in said.stdout + said.stderr
