"""What a result was made with: versions, commit, device."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.paths import ROOT

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "torch",
    "timm",
    "transformers",
    "lightning-fabric",
    "POT",
    "pb1-detectron2",
    "segmentation-models-pytorch",
    "snakemake",
    "numpy",
    "scikit-learn",
)


def commit() -> str:
    """The checkout's commit, with ``-dirty`` where files differ from it; ``unknown`` outside a git checkout."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no", "--", ":!results") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*args: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *args], check=True, capture_output=True, text=True).stdout.strip()


def cpu_name() -> str:
    """Model, vector instructions that torch uses, and cores: what decides which numbers come out, and how fast."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = (
            line.partition(":")[2].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        )
        model = next(named, model)
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"


def facts(device: torch.device, count: int = 1) -> dict[str, Any]:
    """Versions, commit and ``count`` devices of this kind, for cards."""
    if device.type == "cuda":
        import torch

        name = torch.cuda.get_device_name(device)
    else:
        name = cpu_name()
    return {
        "versions": {p: version(p) for p in PACKAGES},
        "python": platform.python_version(),
        "commit": commit(),
        "device": f"{device.type}: {name}" + (f", {count} processes" if count > 1 else ""),
    }
