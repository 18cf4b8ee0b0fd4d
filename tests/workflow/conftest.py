"""One real run of the smoke study, shared by the tests that look at it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlip.study import Study, load_study
from tests.conftest import ROOT
from tests.data.layouts import write_rsna


@dataclass(frozen=True)
class Run:
    """A finished study: its configuration, where it wrote, and what Snakemake said."""

    study: Study
    folder: Path
    config: Path
    output: str


def environment(cwd: Path = ROOT, **changes: str) -> dict[str, str]:
    """Of a run in ``cwd``, whose own sources count before the installed ones."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLIP_")}
    return {**kept, "PATH": path, "PYTHONPATH": str(cwd), **changes}


def snakemake(
    *args: str, check: bool = True, timeout: float = 900, cwd: Path = ROOT, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a checkout with the environment the tests run in."""
    command = [sys.executable, "-m", "snakemake", "--nolock", *args]
    done = subprocess.run(
        command, cwd=cwd, env=environment(cwd, **changes), capture_output=True, text=True, timeout=timeout
    )
    assert not check or done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done


def write_config(path: Path, base: str = "smoke", **changes: object) -> Path:
    """A study file made from ``config/<base>.yaml`` with top-level keys replaced."""
    config = yaml.safe_load((ROOT / "config" / f"{base}.yaml").read_text(encoding="utf-8"))
    path.write_text(
        yaml.safe_dump({**config, **changes}, sort_keys=False), encoding="utf-8"
    )  # in the order of the file
    return path


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The smoke study, run by Snakemake as a user would. ``MLIP_SMOKE_RUN`` names a finished run's folder to reuse."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # what all workers share
    folder = Path(os.environ.get("MLIP_SMOKE_RUN") or base / "smoke")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w", encoding="utf-8") as lock:  # one worker runs it, the others wait and find it done
        fcntl.flock(lock, fcntl.LOCK_EX)
        config = write_config(folder / "smoke.yaml", work=str(folder / "work"), results=str(folder / "results"))
        done = snakemake("--cores", "2", "--configfile", str(config))
    return Run(load_study(config), folder, config, done.stdout + done.stderr)


def mini_study(folder: Path, films: int = 40, **changes: Any) -> Path:
    """A study of one small data set in a real layout and one untrained row: seconds for a whole run."""
    write_rsna(folder / "rsna", images=films)
    config: dict[str, Any] = {
        "study": "mini", "title": "Mini", "data_note": "made in a test", "image_size": 32,
        "work": str(folder / "work"), "results": str(folder / "results"),
        "datasets": {"rsna": {"reader": "rsna", "root": str(folder / "rsna")}},
        "encoders": {
            "cnn": {"name": "resnet", "args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}},
            "vit": {"name": "vit"}, "text": {"layers": 1, "dim": 16, "heads": 1},
        },
        "pretrain": {"datasets": ["rsna"]}, "methods": {"include": ["random"]}, "analyses": [],
        "tasks": {"linear_probe": {"datasets": ["rsna"], "fractions": [100]}}, "statistics": {"bootstrap": 50},
    }  # fmt: skip
    path = folder / "mini.yaml"
    path.write_text(yaml.safe_dump({**config, **changes}, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources that a test may change (method folders are found by looking into the checkout)."""
    return copy_of_sources(tmp_path / "checkout")


def copy_of_sources(target: Path) -> Path:
    """The sources that a run needs, copied into ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("mlip", "baselines", "benchmarks", "workflows", "profiles", "config", "Snakefile", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name)  # compiled modules too: times are kept, so they are valid
        else:
            shutil.copy2(source, target / name)
    return target
