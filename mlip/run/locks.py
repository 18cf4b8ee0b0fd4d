"""What a run that was killed leaves behind: a lock that nobody holds, and jobs that nobody waits for.

Snakemake's lock is a file, which outlives its maker. Beside it a run holds a lock of the operating system, which does not:
who can take that one knows that the file is stale.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import IO

RUN = "MLIP_RUN"  # <host>:<process> of the run that a job belongs to
_held: list[IO[str]] = []


def take_over(folder: Path) -> bool:
    """Remove the lock of a dead run of this machine in ``folder`` (``.snakemake``); False where a run is alive.

    This process is the run from now on, until it ends.
    """
    if _held:
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "run.lock").open("a+", encoding="utf-8")
    except OSError:  # Snakemake will say what is wrong with the folder
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    file.seek(0)
    # Not every shared file system knows these locks: the lock of a run elsewhere is left to its owner.
    if file.read().strip() == socket.gethostname():
        for lock in (folder / "locks").glob("*.lock"):
            lock.unlink(missing_ok=True)
    file.seek(0)
    file.truncate()
    file.write(socket.gethostname())
    file.flush()
    _held.append(file)
    return True


def announce_run() -> None:
    """Let the jobs that this process starts know whose they are."""
    os.environ[RUN] = f"{socket.gethostname()}:{os.getpid()}"


def end_with_run() -> None:
    """In a job: end when the run that asked for it is dead. Its successor asks for the same file."""
    host, _, process = os.environ.get(RUN, "").partition(":")
    if host != socket.gethostname() or not process.isdigit():
        return

    def watch() -> None:
        while alive(int(process)):
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def alive(process: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
