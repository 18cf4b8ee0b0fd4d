"""The smoke study on a real Slurm: each job in its allocation, the local run's numbers, a training that outlives its time limit.

``MLIP_SLURM_PAGE`` names a file that the summary is written to (docs/slurm-run.md). ``MLIP_SLURM_SMALL`` takes a part of the study, for
trying things on.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks.plan import resolve
from mlip.paths import StudyPaths
from mlip.run.needs import Needs
from mlip.study import load_study
from tests.conftest import ROOT
from tests.workflow.conftest import Run, copy_of_sources, environment, snakemake, write_config
from tests.workflow.slurm.cluster import GPUS, PLUGINS, Cluster, cluster, environment_with_plugins, install, obstacle

pytestmark = [pytest.mark.study, pytest.mark.slow]
# What this machine has and what spares time; the rest is the profile's.
HERE = ("--jobs", "30", "--resources", f"gpu={GPUS}", "--max-threads", "2", "--latency-wait", "15")
SOON = ("--slurm-init-seconds-before-status-checks", "5")
SMALL = {  # of config/smoke.yaml
    "datasets": ("mimic", "covidx", "siim"),
    "tasks": ("linear_probe", "zero_shot", "segmentation"),
    "methods": {"include": ["isbi24", "random"]},
    "analyses": ["maps"],
}
ROW, MINUTES = "isbi24", 2  # a training, and when it is killed, its start among these
SECONDS = 300  # that it would take; on a shared machine it may be twice as fast as it was timed


@dataclass(frozen=True)
class Bench:
    """A cluster, a copy of the sources, and where the study writes."""

    cluster: Cluster
    python: Path
    checkout: Path
    folder: Path

    def snakemake(self, config: Path, *args: str) -> str:
        """One run through the profile; what it said."""
        command = [str(self.python), "-m", "snakemake", "--workflow-profile", "profiles/slurm", "--configfile"]
        path = f"{self.python.parent}:{os.environ['PATH']}"
        known = {**environment(self.checkout), "PATH": path, "SLURM_CONF": str(self.cluster.conf)}
        done = subprocess.run(
            [*command, str(config), *HERE, *SOON, *args],
            cwd=self.checkout,
            env=known,
            capture_output=True,
            text=True,
            timeout=7200,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if reason := obstacle() or install():
        pytest.skip(f"no Slurm here: {reason}")
    folder = Path(os.environ.get("MLIP_SLURM_RUN") or tmp_path_factory.mktemp("slurm"))
    folder.mkdir(parents=True, exist_ok=True)
    python = environment_with_plugins(folder / "environment", *PLUGINS)
    with cluster() as running:
        checkout = folder / "checkout"
        yield Bench(running, python, checkout if checkout.is_dir() else copy_of_sources(checkout), folder)


def config_of(folder: Path, name: str, **changes: object) -> Path:
    """The smoke study, or the part of it, with its files under ``folder``."""
    if os.environ.get("MLIP_SLURM_SMALL"):
        whole = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text(encoding="utf-8"))
        chosen = {key: {name: whole[key][name] for name in SMALL[key]} for key in ("datasets", "tasks")}
        twin = {**whole["twin"], "datasets": {name: whole["twin"]["datasets"][name] for name in SMALL["datasets"]}}
        changes = {**chosen, "twin": twin, "methods": SMALL["methods"], "analyses": SMALL["analyses"], **changes}
    work = {"work": str(folder / "work"), "results": str(folder / "results")}
    return write_config(folder / f"{name}.yaml", **work, **changes)


@pytest.fixture(scope="module")
def local(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same study run by Snakemake on this machine."""
    if not os.environ.get("MLIP_SLURM_SMALL"):
        return request.getfixturevalue("smoke")
    folder = Path(os.environ.get("MLIP_SMOKE_RUN") or tmp_path_factory.mktemp("local"))
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(folder, "smoke")
    done = snakemake("--cores", "2", "--configfile", str(config))
    return Run(load_study(config), folder, config, done.stdout + done.stderr)


def test_smoke_study_on_slurm(bench: Bench, local: Run) -> None:
    config, began = config_of(bench.folder, "smoke"), time.monotonic()
    said = bench.snakemake(config, "--retries", "0")
    seconds = time.monotonic() - began
    jobs = int(re.findall(r"(\d+) of \1 steps \(100%\) done", said)[-1]) - 1  # the target rule is no job

    lines = bench.cluster.accounted()
    allocations = [line for line in lines if "." not in line["JobID"]]
    steps = {line["JobID"].partition(".")[0]: line for line in lines if line["JobID"].endswith(".0")}
    assert len(allocations) == jobs and {line["State"] for line in allocations} == {"COMPLETED"}
    # The work was done within the allocations: each has its step, and who imports torch shows in its memory.
    assert steps.keys() == {line["JobID"] for line in allocations}
    assert {step["State"] for step in steps.values()} == {"COMPLETED"}
    trainings = [line for line in allocations if rule_of(line) == "pretrain"]
    assert trainings and all(megabytes(steps[line["JobID"]]["MaxRSS"]) > 600 for line in trainings)
    assert not (StudyPaths(load_study(config)).work / "logs" / "warm.log").exists()

    needs = Needs(resolve(load_study(config)), GPUS, 2)
    for line in trainings:
        need = needs.of("pretrain", line["Comment"].split("_")[-2], "0")
        assert megabytes(line["ReqMem"]) == need.mem_mb and int(line["NCPUS"]) == need.threads
        assert line["Timelimit"] == f"{need.runtime // 60:02}:{need.runtime % 60:02}:00"
    on_gpu = {rule_of(line) for line in allocations if "gres/gpu=1" in line["AllocTRES"]}
    assert {"pretrain", "features", "maps", "evaluate"} <= on_gpu
    assert not on_gpu & {"anatomy", "twin", "store", "store_with_masks", "splits", "audit", "tokenizer", "tables"}

    here, there = (
        pd.read_csv(folder / "results" / "smoke" / "cells.csv").drop(columns="seconds")
        for folder in (local.folder, bench.folder)
    )
    pd.testing.assert_frame_equal(here, there)
    # Nothing more to do, also for a plain run on this machine: where a job runs is no reason to repeat it.
    assert "Nothing to be done" in bench.snakemake(config, "--executor", "local", "--cores", "2")
    if page := os.environ.get("MLIP_SLURM_PAGE"):
        write_page(Path(page), bench, allocations, steps, seconds, len(here))


def test_training_killed_at_its_time_limit_goes_on(bench: Bench, local: Run) -> None:
    """A training that takes longer than its allocation: Slurm kills it, Snakemake tries again, and it resumes."""
    # How fast this machine trains now: of the run on the cluster, just before, rather than of the local one.
    cards = [
        StudyPaths(load_study(config_of(f, "smoke"))).pretrain(ROW, 0) / "card.json"
        for f in (bench.folder, local.folder)
    ]
    card = json.loads(next(path for path in cards if path.is_file()).read_text(encoding="utf-8"))
    epochs = math.ceil(SECONDS * card["samples_per_second"] / card["pairs"])
    pretrain = {**local.study.pretrain.model_dump(mode="json"), "epochs": epochs, "checkpoint_seconds": 2}
    config = config_of(bench.folder, "long", pretrain=pretrain)
    target = StudyPaths(load_study(config)).pretrain(ROW, 0) / "card.json"
    before = {line["JobID"] for line in bench.cluster.accounted()}
    bench.snakemake(config, "--retries", "9", "--set-resources", f"pretrain:runtime={MINUTES}", "--", str(target))
    made = json.loads(target.read_text(encoding="utf-8"))
    tries = [
        line
        for line in bench.cluster.accounted()
        if line["JobID"] not in before and "." not in line["JobID"] and rule_of(line) == "pretrain"
    ]
    assert [line["State"] for line in tries] == ["TIMEOUT"] * (len(tries) - 1) + ["COMPLETED"] and len(tries) > 1
    assert made["resumed"] >= 1 and made["recipe"]["epochs"] == epochs
    if page := os.environ.get("MLIP_SLURM_PAGE"):
        ends = ", ".join(f"{line['State']} after {line['ElapsedRaw']} s" for line in tries)
        with Path(page).open("a", encoding="utf-8") as file:
            file.write(
                f"\n## A training that takes longer than its allocation\n\nTime limit {MINUTES} minutes, `{ROW}`, {epochs} epochs: {ends}; "
                f"the card says {made['resumed']} times resumed, {made['steps']} steps.\n"
            )


def rule_of(line: dict[str, str]) -> str:
    """Of ``rule_<name>_wildcards_...``, which the executor plugin writes as the comment of an allocation."""
    return line["Comment"].removeprefix("rule_").partition("_wildcards_")[0]


def megabytes(text: str) -> float:
    """Of ``1404760K``, ``2100M``; 0 where nothing was sampled."""
    units = {"K": 1 / 1024, "M": 1, "G": 1024}
    return float(text[:-1]) * units[text[-1]] if text and text[-1] in units else 0.0


def write_page(
    path: Path,
    bench: Bench,
    allocations: list[dict[str, str]],
    steps: dict[str, dict[str, str]],
    seconds: float,
    cells: int,
) -> None:
    by_rule: dict[str, list[dict[str, str]]] = defaultdict(list)
    for line in allocations:
        by_rule[rule_of(line)].append(line)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    versions = ", ".join([bench.cluster.version, *(f"{p.replace('==', ' ')}" for p in PLUGINS)])
    text = [
        f"# The smoke study on a real Slurm{' (a part of it)' if os.environ.get('MLIP_SLURM_SMALL') else ''}\n",
        f"Written by `tests/workflow/slurm/test_slurm.py` on {datetime.now(UTC):%Y-%m-%d}, commit {commit.strip()}. "
        f"snakemake {version('snakemake')}, {versions}; Python {platform.python_version()}, torch {version('torch')}.",
        f"One node with {os.cpu_count()} cores and {GPUS} pretended GPUs, other work beside it: times say that it ran, not how fast.\n",
        f"{len(allocations)} jobs of Snakemake, {len(allocations)} allocations accounted by `sacct`, all COMPLETED, each with its step; "
        f"{seconds / 60:.0f} minutes in all. {cells} cells equal those of a local run. A local run afterwards found nothing to do.\n",
        "| rule | allocations | seconds, longest | cores | memory asked, MB | memory of the step, most, MB | minutes asked | GPUs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rule, lines in sorted(by_rule.items()):
        most = max(megabytes(steps[line["JobID"]]["MaxRSS"]) for line in lines)
        gpus = {found[0] if (found := re.findall(r"gres/gpu=(\d+)", line["AllocTRES"])) else "0" for line in lines}
        asked = max(megabytes(line["ReqMem"]) for line in lines)
        hours, minutes, _ = max(line["Timelimit"] for line in lines).split(":")
        longest = max(int(line["ElapsedRaw"]) for line in lines)
        shown = f"{most:.0f}" if most else "too short to be sampled"
        text.append(
            f"| {rule} | {len(lines)} | {longest} | {lines[0]['NCPUS']} | {asked:.0f} | {shown} | {60 * int(hours) + int(minutes)} "
            f"| {' or '.join(sorted(gpus))} |"
        )
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
