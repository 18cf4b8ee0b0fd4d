"""One real run of the smoke study, shared by the tests that look at it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mlip.study import Study, load_study
from tests.conftest import ROOT


@dataclass(frozen=True)
class Run:
    """A finished study: its configuration, where it wrote, and what Snakemake said."""

    study: Study
    folder: Path
    config: Path
    output: str


def snakemake(*args: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in the checkout with the environment the tests run in."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--nolock", *args]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done


def write_config(path: Path, base: str = "smoke", **changes: object) -> Path:
    """A study file made from ``config/<base>.yaml`` with top-level keys replaced."""
    config = yaml.safe_load((ROOT / "config" / f"{base}.yaml").read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**config, **changes}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The smoke study, run by Snakemake as a user would. ``MLIP_SMOKE_RUN`` names a finished run's folder to reuse."""
    reuse = os.environ.get("MLIP_SMOKE_RUN")
    folder = Path(reuse) if reuse else tmp_path_factory.mktemp("smoke")
    folder.mkdir(parents=True, exist_ok=True)
    config = write_config(folder / "smoke.yaml", work=str(folder / "work"), results=str(folder / "results"))
    done = snakemake("--cores", "2", "--configfile", str(config))
    return Run(load_study(config), folder, config, done.stdout + done.stderr)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources that a test may change (method folders are found by looking into the checkout)."""
    for name in ("mlip", "baselines", "benchmarks", "workflows", "config", "Snakefile", "pyproject.toml"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    return tmp_path
