"""What a killed Slurm test leaves behind does not make the next one skip; what is not ours stays."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.workflow.slurm import cluster


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "slurm.conf"
    monkeypatch.setattr(cluster, "SYSTEM_CONF", made)
    return made


def cluster_of(pid: int, tmp_path: Path, link: Path) -> Path:
    folder = tmp_path / f"{cluster.OURS}{pid}"
    folder.mkdir()
    link.symlink_to(folder / "slurm.conf")
    return folder


def gone() -> int:
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def test_a_killed_run_is_cleared_with_its_daemons(tmp_path, link):
    folder = cluster_of(gone(), tmp_path, link)
    daemon = subprocess.Popen(["sleep", "60"], env={**os.environ, "SLURM_CONF": str(folder / "slurm.conf")})
    try:
        cluster.clear_remains()
        assert not os.path.lexists(link) and not folder.exists()
        assert not psutil.pid_exists(daemon.pid)
    finally:
        daemon.kill()


def test_a_number_that_another_process_has_now_counts_as_gone(tmp_path, link):
    folder = cluster_of(os.getpid(), tmp_path, link)
    os.utime(link, (1, 1), follow_symlinks=False)  # long before this process began
    cluster.clear_remains()
    assert not os.path.lexists(link) and not folder.exists()


def test_a_running_cluster_and_a_slurm_of_the_machine_stay(tmp_path, link):
    folder = cluster_of(os.getpid(), tmp_path, link)
    cluster.clear_remains()
    assert link.is_symlink() and folder.is_dir()
    link.unlink()
    link.symlink_to(tmp_path / "site" / "slurm.conf")  # dangling, as on a file system that is away
    cluster.clear_remains()
    assert link.is_symlink()
    link.unlink()
    link.write_text("ClusterName=theirs")
    cluster.clear_remains()
    assert link.is_file()
