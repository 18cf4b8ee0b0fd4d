"""The process that forks for each job: same output and exit status as a job of its own, gone with its caller."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlip.run import warm
from tests.conftest import ROOT

# Only the libraries are left out, so that the test is quick.
SERVER = (
    "import os, sys; from mlip.run import warm; warm.LIBRARIES = ('pandas',); warm.serve(sys.argv[1], os.getppid())"
)
JOB = [sys.executable, "-m", "mlip", "run", "splits", "nowhere", "-s", "config/smoke.yaml"]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "warm"
    folder.mkdir()
    path = str(folder / "socket")
    with subprocess.Popen([sys.executable, "-c", SERVER, path], cwd=ROOT) as server:
        deadline = time.monotonic() + 60
        while not os.path.exists(path):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield path
        server.kill()


def run(command: list[str], address: str | None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != warm.VARIABLE}
    if address:
        environment[warm.VARIABLE] = f"{address}:{sys.prefix}"
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_a_job_says_and_returns_what_it_would_alone(address: str) -> None:
    alone, forked = run(JOB, None), run(JOB, address)
    assert forked.returncode == alone.returncode == 2
    assert forked.stderr == alone.stderr and "nowhere" in forked.stderr
    assert forked.stdout == alone.stdout


def test_without_a_server_the_job_runs_in_its_own_process(tmp_path: Path) -> None:
    done = run(JOB, str(tmp_path / "no-socket"))
    assert done.returncode == 2 and "nowhere" in done.stderr


def test_only_stages_are_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(warm.VARIABLE, f"/nowhere/at/all:{sys.prefix}")
    assert warm.forward(["doctor"]) is None
    assert warm.forward(["run", "twin", "mimic"]) is None


def test_a_job_of_another_environment_is_not_forwarded(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``--use-conda`` a rule runs in its own environment, not in Snakemake's."""
    monkeypatch.setenv(warm.VARIABLE, f"{address}:/another/environment")
    assert warm.forward(JOB[3:]) is None


def test_a_job_ends_with_its_caller(tmp_path: Path) -> None:
    """A package of the same name whose command line sleeps stands in for ours."""
    package = tmp_path / "mlip"
    (package / "run").mkdir(parents=True)
    names = ("__init__.py", "__main__.py", "run/__init__.py", "run/warm.py", "run/locks.py", "errors.py")
    for name in (*names, "detectron2_compat.py"):
        shutil.copy(ROOT / "mlip" / name, package / name)
    note, path = tmp_path / "pid", tmp_path / "socket"
    (package / "run" / "cli.py").write_text(
        "import os, pathlib, time\n"
        "def main():\n"
        f"    pathlib.Path({str(note)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, warm.VARIABLE: f"{path}:{sys.prefix}"}
    with subprocess.Popen([sys.executable, "-c", SERVER, str(path)], cwd=tmp_path) as server:
        _wait(path.exists)
        with subprocess.Popen([sys.executable, "-m", "mlip", "run", "splits"], cwd=tmp_path, env=environment) as caller:
            _wait(lambda: note.exists() and note.read_text(encoding="utf-8") != "")
            job = int(note.read_text(encoding="utf-8"))
            assert job != caller.pid and _alive(job)
            caller.kill()
        _wait(lambda: not _alive(job))
        server.kill()


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    start = (
        "import sys; from pathlib import Path; from mlip.run import warm; warm.start(Path(sys.argv[1]));"
        "import os; print(os.environ.get(warm.VARIABLE, ''))"
    )
    done = run([sys.executable, "-c", start, str(tmp_path / "log")], None)
    address = done.stdout.strip().partition(":")[0]
    if not address:
        pytest.skip("this machine has a GPU, where no server is started")
    _wait(lambda: not os.path.exists(os.path.dirname(address)))


@pytest.mark.parametrize("where", [{"local": False}, {"conda": True}])
def test_jobs_of_a_scheduler_or_of_conda_are_told_of_no_server(
    where: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not of the server of the run that this one is started in, which would take jobs out of their allocation."""
    monkeypatch.setenv(warm.VARIABLE, f"/of/another/run:{sys.prefix}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    warm.start(tmp_path / "log", **where)
    assert warm.VARIABLE not in os.environ and not list(tmp_path.iterdir())


def test_folders_of_killed_runs_are_removed_and_of_live_ones_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run and server are killed together, as by the power: nobody is left to remove the folder but the next run."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "import sys, time; from pathlib import Path; from mlip.run import warm; warm.start(Path(sys.argv[1]));"
        "time.sleep(60)"
    )
    environment = {k: v for k, v in os.environ.items() if k != warm.VARIABLE} | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as run_:
        if Path("/dev/nvidiactl").exists():
            run_.kill()
            pytest.skip("this machine has a GPU, where no server is started")
        _wait(lambda: any(tmp_path.glob(f"{warm.PREFIX}*")))
        warm.clean_up()
        assert [p.name.startswith(f"{warm.PREFIX}{run_.pid}-") for p in tmp_path.glob("mlip-warm-*")] == [True]
        os.killpg(run_.pid, signal.SIGKILL)
    assert any(tmp_path.glob("mlip-warm-*"))
    warm.clean_up()
    assert not any(tmp_path.glob("mlip-warm-*"))


def _wait(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
