"""Worker processes end with the process that they work for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from mlip.run.locks import alive
from mlip.workers import forked


def shift(value: int) -> int:
    return value + OFFSET


def remember(offset: int) -> None:
    globals()["OFFSET"] = offset


OFFSET = 0


def test_a_pool_works_and_its_initializer_is_called() -> None:
    with forked(2, remember, (10,)) as pool:
        assert list(pool.map(shift, range(4))) == [10, 11, 12, 13]


def test_workers_of_a_killed_process_end() -> None:
    code = (
        "import os, time\nfrom mlip.workers import forked\ndef pid(_):\n    time.sleep(0.2)\n    return os.getpid()\n"
    )
    code += "pool = forked(2)\nprint(*set(pool.map(pid, range(4))), flush=True)\ntime.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) == 2 and all(map(alive, workers))
        os.kill(process.pid, signal.SIGKILL)
        end = time.monotonic() + 20
        while any(map(alive, workers)) and time.monotonic() < end:
            time.sleep(0.1)
    assert not any(map(alive, workers))
