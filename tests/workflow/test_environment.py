"""One list of pins for plain and conda runs; no registry is named."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.workflow.conftest import environment, mini_study

ENVS = ROOT / "workflows" / "envs"


def test_conda_environment_asks_for_python_only() -> None:
    for path in ENVS.glob("*.yaml"):
        env = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert env == {"channels": ["conda-forge"], "dependencies": ["python=3.11"]}
        assert path.with_suffix(".post-deploy.sh").is_file()


def test_every_rule_that_runs_code_has_an_environment() -> None:
    for path in (ROOT / "workflows" / "rules").glob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
            assert "conda:" in rule and "log:" in rule, f"{path.name}: {rule.split(':')[0]}"


def test_post_deploy_names_the_present_lock() -> None:
    digest = hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    assert digest in (ENVS / "mlip.post-deploy.sh").read_text(encoding="utf-8"), "run `make lock`"


def test_lock_names_no_registry_and_pins_every_dependency() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?://|--index|--find-links", lock)
    assert all("==" in line for line in lock.splitlines() if line and not line.startswith((" ", "#")))
    pinned = {line.split("==")[0].lower() for line in lock.splitlines() if "==" in line}
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    names = {re.match(r"[A-Za-z0-9._-]+", item)[0].lower().replace("_", "-") for item in wanted}  # type: ignore[index]
    assert names <= pinned


def test_jobs_take_the_python_of_a_snakemake_whose_environment_is_not_activated(tmp_path: Path) -> None:
    other = tmp_path / "bin"
    other.mkdir()
    (other / "python").write_text("#!/bin/sh\necho another python; exit 3\n", encoding="utf-8")
    (other / "python").chmod(0o755)
    config = mini_study(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--nolock", "--cores", "1", "--configfile", str(config), "--until", "splits"],
        cwd=ROOT, env={**environment(), "PATH": f"{other}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert list((tmp_path / "work").rglob("splits/*"))


@pytest.mark.study
def test_post_deploy_installs_into_a_fresh_environment(tmp_path: Path) -> None:
    """As Snakemake runs it: a copy of the script, in the checkout, with the new environment's CONDA_PREFIX."""
    prefix = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(prefix)], check=True)
    script = tmp_path / "env.post-deploy.sh"
    script.write_bytes((ENVS / "mlip.post-deploy.sh").read_bytes())
    # Bytecode is compiled on first use instead: it only costs time here.
    environment = {**os.environ, "CONDA_PREFIX": str(prefix), "UV_COMPILE_BYTECODE": "0"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(["bash", str(script)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    code = "import mlip.detectron2_compat, detectron2, snakemake, torch, mlip; print(mlip.__file__)"
    seen = subprocess.run(
        [str(prefix / "bin" / "python"), "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert seen.returncode == 0, seen.stderr[-2000:]
    assert Path(seen.stdout.strip()).parent.parent == ROOT

    def versions(python: str) -> list[str]:
        lines = subprocess.run(
            [sys.executable, "-m", "uv", "pip", "freeze", "--python", python],
            check=True,
            capture_output=True,
            text=True,
        )
        return [line for line in lines.stdout.splitlines() if "==" in line]

    ours = {line for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines() if "==" in line}
    pinned = {line.split(" ;")[0] for line in ours}
    own = ("pip==", "setuptools==")  # what a new environment brings itself
    found = {v.lower() for v in versions(str(prefix / "bin" / "python")) if not v.startswith(own)}
    assert len(found) > 100 and found <= {p.lower() for p in pinned}
