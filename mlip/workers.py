"""Worker processes that share what their parent has read."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import cv2


def forked(
    workers: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """A pool of ``workers`` forked processes (spawned where there is no safe fork).

    OpenCV's threads do not survive a fork, and a child that finds them started may wait for them for ever: they are stopped
    first, and this process goes on with one. A worker ends with its parent, also where that was killed: it would else wait for
    work for ever.
    """
    cv2.setNumThreads(1)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(os.getpid(), initializer, initargs)
    )


def _begin(parent: int, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    end_with(parent)
    if initializer is not None:
        initializer(*initargs)


def end_with(parent: int) -> None:
    """From now on this process ends when ``parent``, the process that started it, has ended, however it did."""
    threading.Thread(target=_wait_for_end, args=(parent,), daemon=True).start()


def _wait_for_end(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
