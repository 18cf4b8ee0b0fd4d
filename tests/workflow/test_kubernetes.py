"""The profile for Kubernetes. There is no cluster here: a stand-in for ``kubectl`` starts what a pod would start."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT
from tests.workflow.conftest import copy_of_sources, environment, mini_study
from tests.workflow.slurm.cluster import environment_with_plugins

PLUGIN = "snakemake-executor-plugin-cluster-generic==1.0.9"
KUBECTL = """#!/usr/bin/env python3
import json, os, pathlib, subprocess, sys
here = pathlib.Path(os.environ["STAND_IN"])
if sys.argv[1] == "create":
    job = json.load(sys.stdin)
    (here / f"{job['metadata']['name']}.json").write_text(json.dumps(job))
    pod = job["spec"]["template"]["spec"]["containers"][0]
    ended = here / f"{job['metadata']['name']}.ended"
    subprocess.Popen(["sh", "-c", f"\\"$@\\"; echo $? > '{ended}'", "sh", *pod["command"]], cwd=pod["workingDir"],
                     stdin=subprocess.DEVNULL, stdout=open(ended.with_suffix(".log"), "w"), stderr=subprocess.STDOUT)
elif sys.argv[1] == "get":
    ended = here / f"{sys.argv[3]}.ended"
    kind = {"0": "Complete"}.get(ended.read_text().strip(), "Failed") if ended.exists() and ended.read_text() else None
    print(json.dumps({"status": {"conditions": [{"type": kind, "status": "True"}] if kind else []}}))
"""


@pytest.fixture(scope="module")
def jobs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("jobs", ROOT / "profiles" / "kubernetes" / "jobs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script(folder: Path, **resources: int) -> Path:
    path = folder / "job.sh"
    properties = {"rule": "store_with_masks", "threads": 4, "resources": {"mem_mb": 5000, "runtime": 30, **resources}}
    path.write_text(f"#!/bin/sh\n# properties = {json.dumps(properties)}\ntrue\n", encoding="utf-8")
    return path


def test_a_pod_gets_what_the_rule_asks_for(jobs: ModuleType, tmp_path: Path) -> None:
    job = jobs.manifest(script(tmp_path, gpu=2), "mlip:latest", f"claim:{tmp_path.parent}", tmp_path)
    pod = job["spec"]["template"]["spec"]["containers"][0]
    assert (
        pod["resources"]["limits"]
        == {"cpu": "4", "memory": "5000M", "nvidia.com/gpu": "2"}
        == pod["resources"]["requests"]
    )
    assert job["spec"]["activeDeadlineSeconds"] == 1800 and pod["workingDir"] == str(tmp_path)
    plain = jobs.manifest(script(tmp_path), "mlip:latest", f"claim:{tmp_path.parent}", tmp_path)
    assert "nvidia.com/gpu" not in plain["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_a_volume_that_does_not_hold_the_checkout_is_refused(jobs: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="CLAIM:PATH"):
        jobs.manifest(script(tmp_path), "mlip:latest", "claim:/elsewhere", tmp_path)


@pytest.mark.parametrize(("kind", "state"), [("Complete", "success"), ("Failed", "failed"), ("Suspended", "running")])
def test_states(jobs: ModuleType, kind: str, state: str) -> None:
    assert jobs.state({"status": {"conditions": [{"type": kind, "status": "True"}]}}) == state
    assert jobs.state({"status": {}}) == "running"


@pytest.mark.slow
@pytest.mark.study
def test_a_study_runs_through_the_profile(tmp_path: Path) -> None:
    checkout, config = copy_of_sources(tmp_path / "checkout"), mini_study(tmp_path)
    profile = checkout / "profiles" / "kubernetes" / "config.yaml"
    profile.write_text(profile.read_text(encoding="utf-8").replace("mlip:/mlip", f"mlip:{tmp_path}"), encoding="utf-8")
    python = environment_with_plugins(tmp_path / "environment", PLUGIN)
    stand_in = tmp_path / "kubectl"
    stand_in.mkdir()
    (stand_in / "kubectl").write_text(KUBECTL, encoding="utf-8")
    (stand_in / "kubectl").chmod(0o755)
    known = environment(checkout, STAND_IN=str(stand_in), MLIP_SALT="of the test")
    known["PATH"] = f"{stand_in}:{python.parent}:{os.environ['PATH']}"
    command = [str(python), "-m", "snakemake", "--workflow-profile", "profiles/kubernetes", "--configfile", str(config)]
    done = subprocess.run(
        [*command, "--seconds-between-status-checks", "1", "--retries", "0", "--max-threads", "2"],
        cwd=checkout,
        env=known,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    logs = "".join(p.read_text(encoding="utf-8")[-1500:] for p in stand_in.glob("*.log"))
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:] + logs
    assert (tmp_path / "results" / "mini.md").is_file()
    pods = [json.loads(p.read_text(encoding="utf-8")) for p in stand_in.glob("*.json")]
    limits = {
        p["metadata"]["labels"]["rule"]: p["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        for p in pods
    }
    assert len(pods) == 9 and "nvidia.com/gpu" in limits["pretrain"] and "nvidia.com/gpu" not in limits["splits"]
    # The run's salt reached the pods: no other was made.
    assert not (tmp_path / "work" / ".salt").exists()
