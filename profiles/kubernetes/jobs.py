"""Submits, watches and deletes the jobs of a run on Kubernetes, for snakemake-executor-plugin-cluster-generic.

The stages find files by their paths, so that pods must see the checkout and ``work`` where the run sees them: on a volume.
Snakemake's own executor for Kubernetes copies files to and from a bucket instead and refuses a shared volume.

    jobs.py submit --image IMAGE --volume CLAIM:PATH [--namespace NAMESPACE] JOBSCRIPT
    jobs.py status [--namespace NAMESPACE] JOB
    jobs.py cancel [--namespace NAMESPACE] JOB...
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

GPU = "nvidia.com/gpu"


def manifest(script: Path, image: str, volume: str, folder: Path) -> dict[str, Any]:
    """A Kubernetes Job for a job script of Snakemake, which says on one line what the job asks for."""
    found = re.search(r"^# properties = (\{.*\})$", script.read_text(encoding="utf-8"), flags=re.M)
    if found is None:
        raise SystemExit(f"{script}: not a job script of Snakemake: it has no line `# properties`")
    job = json.loads(found[1])
    asked, (claim, _, mounted) = job["resources"], volume.partition(":")
    if not claim or not mounted.startswith("/") or not folder.is_relative_to(mounted):
        raise SystemExit(f"--volume {volume}: is to be CLAIM:PATH, with {folder} under PATH")
    limits = {"cpu": str(job["threads"]), "memory": f"{asked['mem_mb']}M"}
    if asked.get("gpu"):
        limits[GPU] = str(asked["gpu"])
    container = {
        "name": "job",
        "image": image,
        "command": ["/bin/sh", str(script.absolute())],
        "workingDir": str(folder),
        "resources": {"requests": limits, "limits": limits},  # of a GPU Kubernetes wants both, and equal
        # PyTorch's processes hand batches on through shared memory, of which a pod has 64 MB.
        "volumeMounts": [
            {"name": "checkout", "mountPath": mounted},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    volumes = [
        {"name": "checkout", "persistentVolumeClaim": {"claimName": claim}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
    ]
    pod = {"restartPolicy": "Never", "containers": [container], "volumes": volumes}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"mlip-{uuid.uuid4()}", "labels": {"app": "mlip", "rule": job["rule"].replace("_", "-")}},
        "spec": {
            "backoffLimit": 0,  # Snakemake tries again, with what a further attempt asks for
            "activeDeadlineSeconds": 60 * asked["runtime"],
            "ttlSecondsAfterFinished": 86_400,
            "template": {"metadata": {"labels": {"app": "mlip"}}, "spec": pod},
        },
    }


def state(job: dict[str, Any]) -> str:
    """``success``, ``failed`` or ``running`` of what ``kubectl get job`` gives."""
    ended = {c["type"] for c in job.get("status", {}).get("conditions") or [] if c["status"] == "True"}
    return "success" if "Complete" in ended else "failed" if "Failed" in ended else "running"


def kubectl(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"kubectl {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def main() -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--namespace", default="default")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    submit = commands.add_parser("submit", parents=[common])
    submit.add_argument("--image", required=True)
    submit.add_argument("--volume", required=True)
    submit.add_argument("script", type=Path)
    commands.add_parser("status", parents=[common]).add_argument("job")
    commands.add_parser("cancel", parents=[common]).add_argument("job", nargs="+")
    given = parser.parse_args()
    where = ("--namespace", given.namespace)
    if given.command == "submit":
        made = manifest(given.script, given.image, given.volume, Path.cwd())
        kubectl("create", *where, "-f", "-", stdin=json.dumps(made))
        print(made["metadata"]["name"])
    elif given.command == "status":
        print(state(json.loads(kubectl("get", "job", given.job, *where, "-o", "json"))))
    else:
        kubectl("delete", "job", *given.job, *where, "--wait=false", "--ignore-not-found")


if __name__ == "__main__":
    sys.exit(main())
