"""A run that is killed at any point goes on with the same command, and ends with the same tables."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.workflow.conftest import Run, copy_of_sources, environment, mini_study, write_config

pytestmark = pytest.mark.study
POINTS = 10
JOBS = 70  # of the smoke study


def start(checkout: Path, config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", str(config), "--quiet", "rules"]
    return subprocess.Popen(
        command,
        cwd=checkout,
        env=environment(checkout),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[bytes], timeout: float = 900) -> None:
    said, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, said.decode()[-3000:]


def made(work: Path) -> int:
    return sum(1 for _ in (work / "made").rglob("*.json")) if (work / "made").is_dir() else 0


def wait_for(truth, process: subprocess.Popen[bytes], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not truth() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def without_commit(page: Path) -> str:
    """A copy of the sources has none."""
    return re.sub(r"commit [\w-]+", "commit", page.read_text(encoding="utf-8"))


def without_cost(cells: Path) -> pd.DataFrame:
    return pd.read_csv(cells).drop(columns="seconds")


@pytest.mark.slow
def test_a_run_killed_at_ten_points_ends_with_the_same_tables(smoke: Run, tmp_path: Path) -> None:
    checkout = copy_of_sources(tmp_path / "checkout")
    config = write_config(tmp_path / "smoke.yaml", work=str(tmp_path / "work"), results=str(tmp_path / "results"))
    work, killed = tmp_path / "work" / "smoke", 0
    for point in range(POINTS):
        reached = point * (JOBS - 2) // POINTS
        process = start(checkout, config)
        wait_for(lambda reached=reached: made(work) > reached, process)
        time.sleep(0.13 * point)  # somewhere within the next job
        killed += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert killed == POINTS, "the study ended before it could be killed"
    finish(start(checkout, config))
    pd.testing.assert_frame_equal(
        without_cost(tmp_path / "results" / "smoke" / "cells.csv"),
        without_cost(smoke.folder / "results" / "smoke" / "cells.csv"),
    )
    for page in sorted((smoke.folder / "results").rglob("*.md")):
        if page.name != "cost.md":
            again = tmp_path / "results" / page.relative_to(smoke.folder / "results")
            assert without_commit(again) == without_commit(page), page


def test_the_lock_of_a_dead_run_is_removed_and_that_of_a_live_one_is_not(tmp_path: Path) -> None:
    """Only Snakemake itself is killed: its jobs end by themselves, and the same command goes on."""
    checkout, config = copy_of_sources(tmp_path / "checkout"), mini_study(tmp_path, films=300)
    work, locks = tmp_path / "work" / "mini", checkout / ".snakemake" / "locks"
    first = start(checkout, config)
    wait_for(lambda: (work / "logs" / "data").is_dir() and any(locks.glob("*.lock")), first)
    assert first.poll() is None
    second = start(checkout, config)
    said, _ = second.communicate(timeout=100)
    assert second.returncode != 0 and b"lock" in said.lower() and any(locks.glob("*.lock"))
    first.kill()
    first.wait()
    assert any(locks.glob("*.lock"))
    finish(start(checkout, config))
    assert (tmp_path / "results" / "mini.md").is_file() and not any(locks.glob("*.lock"))
