"""A real Slurm on this machine: one node with two pretended GPUs, accounting, and nothing left of it afterwards.

Debian's packages, started by hand with files of their own under one folder: no service of the system is started or changed.
The packages themselves stay installed. ``python -m tests.workflow.slurm.cluster FOLDER`` starts one to try things on, until
it is interrupted.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server")
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "sacctmgr", "sbatch", "munged", "mariadbd", "mariadb-install-db")
PLUGINS = ("snakemake-executor-plugin-slurm==2.8.0", "snakemake-executor-plugin-slurm-jobstep==0.6.1")
GPUS = 2
OURS = "mlip-slurm-"  # and the number of the process that started it: a cluster's folder
# `srun` within a job forgets SLURM_CONF (the executor plugin's job step clears it): a link stands here while the cluster runs.
SYSTEM_CONF = Path("/etc/slurm/slurm.conf")


def obstacle() -> str:
    """Why there can be no cluster here, "" where there can; what is left of a killed one is cleared first."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root can start Slurm's daemons"
    clear_remains()
    if os.path.lexists(SYSTEM_CONF):
        return f"{SYSTEM_CONF} exists: this machine has a Slurm of its own"
    if _missing() and not shutil.which("apt-get"):
        return f"{', '.join(_missing())} are not installed, and there is no apt-get"
    return ""


def clear_remains() -> None:
    """Stop and remove a cluster whose process was killed, which otherwise stands in the way of the next: link, daemons, folder."""
    if not SYSTEM_CONF.is_symlink():
        return
    folder = SYSTEM_CONF.readlink().parent
    pid = folder.name.removeprefix(OURS)
    if not (folder.name.startswith(OURS) and pid.isdigit()) or _had_begun(int(pid), SYSTEM_CONF.lstat().st_mtime):
        return
    daemons = [p for p in psutil.process_iter() if _told(p).get("SLURM_CONF") == str(folder / "slurm.conf")]
    for daemon in daemons:
        daemon.kill()
    psutil.wait_procs(daemons, timeout=30)
    SYSTEM_CONF.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _had_begun(pid: int, moment: float) -> bool:
    """Whether a process is there and is older than ``moment``: a younger one has only the number of one that is gone."""
    try:
        return psutil.Process(pid).create_time() <= moment
    except psutil.NoSuchProcess:
        return False


def _told(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:  # it has ended meanwhile, or is another user's
        return {}


def install() -> str:
    """Install the packages where a program is missing; why it failed, or ""."""
    if not _missing():
        return ""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # no service is started
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *command], env=quiet, capture_output=True, text=True, timeout=900)
        if done.returncode:
            return f"apt-get {command[0]} failed: {done.stderr.strip()[-300:]}"
    return f"{', '.join(_missing())} are missing after apt-get install" if _missing() else ""


def _missing() -> list[str]:
    return [name for name in PROGRAMS if not shutil.which(name)]


def environment_with_plugins(folder: Path, *plugins: str) -> Path:
    """A Python that sees all packages of this one, and executors of Snakemake beside them."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    ours = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages" / "ours.pth"
    ours.write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", str(python)]
    subprocess.run([*install, *plugins], check=True, timeout=300)
    return python


class Cluster:
    """A running cluster: ``environment`` lets Slurm's commands find it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.conf = folder, folder / "slurm.conf"
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def accounted(self) -> list[dict[str, str]]:
        """What ``sacct`` knows of every job: one line for the allocation and one for each step."""
        fields = (
            "JobID,JobName,Comment,State,ExitCode,Elapsed,ElapsedRaw,Timelimit,NCPUS,ReqMem,MaxRSS,AllocTRES,NodeList"
        )
        lines = self.ask("sacct", "-a", "-n", "-P", "-S", "now-1days", "-o", fields).splitlines()
        return [dict(zip(fields.split(","), line.split("|"), strict=True)) for line in lines]

    @property
    def version(self) -> str:
        return self.ask("sinfo", "--version").strip()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start munge, MariaDB and Slurm in a folder of this process; stop them and remove it at the end."""
    folder = Path("/run") / f"{OURS}{os.getpid()}"  # only root can write to this path, as munge insists
    folder.mkdir(mode=0o755, parents=True)
    SYSTEM_CONF.parent.mkdir(exist_ok=True)
    SYSTEM_CONF.symlink_to(folder / "slurm.conf")
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield _start(folder, started)
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        SYSTEM_CONF.unlink()
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, started: list[subprocess.Popen[bytes]]) -> Cluster:
    made = Cluster(folder)
    host, mysql_port, dbd_port, ctld_port, slurmd_port = socket.gethostname(), *_free_ports(4)
    for name in ("munge", "data", "state", "spool", "dev", "log"):
        (folder / name).mkdir(mode=0o755)
    password = secrets.token_hex(8)

    def daemon(*command: str) -> subprocess.Popen[bytes]:
        """Every daemon stays in the foreground, a child of this process."""
        log = (folder / "log" / Path(command[0]).name).open("ab")
        process = subprocess.Popen(
            command, env=made.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        started.append(process)
        return process

    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    where = {"key-file": key, "socket": folder / "munge" / "socket", "pid-file": folder / "munge" / "pid"}
    where |= {"log-file": folder / "munge" / "log", "seed-file": folder / "munge" / "seed"}
    daemon("munged", "--foreground", "--force", *[f"--{name}={path}" for name, path in where.items()])
    _wait("munged", lambda: (folder / "munge" / "socket").exists(), folder)

    data = folder / "data"
    shutil.chown(data, "mysql", "mysql")
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db"],
        check=True,
        capture_output=True,
    )
    unix = data / "socket"
    daemon(
        "mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", f"--socket={unix}", f"--port={mysql_port}",
        "--bind-address=127.0.0.1", f"--pid-file={data}/pid",
    )  # fmt: skip
    _wait("mariadbd", unix.exists, folder)
    database = (
        "CREATE DATABASE slurm_acct; "
        f"CREATE USER 'slurm'@'%' IDENTIFIED BY '{password}'; CREATE USER 'slurm'@'localhost' IDENTIFIED BY '{password}';"
        "GRANT ALL ON slurm_acct.* TO 'slurm'@'%'; GRANT ALL ON slurm_acct.* TO 'slurm'@'localhost';"
    )
    subprocess.run(["mariadb", "--no-defaults", f"--socket={unix}", "-e", database], check=True)

    _write(folder / "slurmdbd.conf", 0o600, f"""
AuthType=auth/munge
AuthInfo=socket={where["socket"]}
DbdHost=localhost
DbdPort={dbd_port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mysql_port}
StorageLoc=slurm_acct
StorageUser=slurm
StoragePass={password}
""")  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 1024
    _write(made.conf, 0o644, f"""
ClusterName=mlip
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={where["socket"]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={dbd_port}
AccountingStoragePass={where["socket"]}
AccountingStorageEnforce=associations
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
MpiDefault=none
KillWait=10
OverTimeLimit=0
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={memory} Gres=gpu:{GPUS} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
""")  # fmt: skip
    for index in range(GPUS):  # character devices as /dev/null is
        os.mknod(folder / "dev" / f"gpu{index}", 0o20666, os.makedev(1, 3))
    _write(folder / "gres.conf", 0o644, f"Name=gpu File={folder}/dev/gpu[0-{GPUS - 1}]\n")
    # One cgroup for each job is more than a container allows.
    _write(folder / "cgroup.conf", 0o644, "ConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n")

    daemon("slurmdbd", "-D")
    _wait("slurmdbd", lambda: _answers(made, "sacctmgr", "-n", "list", "cluster"), folder)
    for what in (
        ["cluster", "mlip"],
        ["account", "everyone", "Cluster=mlip"],
        ["user", getpass.getuser(), "Account=everyone"],
    ):
        made.ask("sacctmgr", "-i", "add", *what)
    daemon("slurmctld", "-D")
    _wait("slurmctld", lambda: _answers(made, "scontrol", "ping") and "UP" in made.ask("scontrol", "ping"), folder)
    daemon("slurmd", "-D", "-N", host)
    _wait("slurmd", lambda: made.ask("sinfo", "-h", "-o", "%T").strip() in ("idle", "mixed"), folder)
    return made


def _answers(made: Cluster, *command: str) -> bool:
    return subprocess.run(command, env=made.environment, capture_output=True, timeout=60).returncode == 0


def _write(path: Path, mode: int, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def _free_ports(count: int) -> list[int]:
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [door.getsockname()[1] for door in doors]
    for door in doors:
        door.close()
    return ports


def _wait(what: str, ready: Callable[[], bool], folder: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            log = folder / "log" / what
            raise RuntimeError(
                f"{what} is not ready: {log.read_text(encoding='utf-8')[-1500:] if log.exists() else ''}"
            )
        time.sleep(0.3)


if __name__ == "__main__":
    if reason := obstacle() or install():
        sys.exit(reason)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell in the background has told us to ignore the second
        signal.signal(number, lambda *_: sys.exit())
    with cluster(Path(sys.argv[1])) as running:
        print(f"export SLURM_CONF={running.conf}   # {running.version}", flush=True)
        signal.pause()
