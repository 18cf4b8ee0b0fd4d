"""A file that is newer than whatever a study holds, outside of it."""

from __future__ import annotations

import atexit
import os
import socket
from functools import cache
from pathlib import Path

from mlip.run.locks import alive

FOLDER = (
    Path(".snakemake") / "newest"
)  # beside the checkout: the jobs of a cluster wait for it, and do not see this /tmp


@cache
def newest_file(folder: Path = FOLDER) -> str:
    """Made now, gone with this process; not in the study's folders, which a dry run leaves as they are.

    What a killed process of this machine left is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    for left in folder.glob(f"{host}-*"):
        owner = left.name.removeprefix(f"{host}-")
        if owner.isdigit() and not alive(int(owner)):
            left.unlink(missing_ok=True)
    path = folder / f"{host}-{os.getpid()}"
    path.write_bytes(b"")
    atexit.register(path.absolute().unlink, missing_ok=True)
    return str(path)
