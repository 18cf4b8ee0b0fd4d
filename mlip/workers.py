"""Worker processes that share what their parent has read."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import cv2


def forked(
    workers: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """A pool of ``workers`` forked processes (spawned where there is no safe fork).

    OpenCV's threads do not survive a fork, and a child that finds them started may wait for them for ever: they are stopped
    first, and this process goes on with one.
    """
    cv2.setNumThreads(1)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=initializer, initargs=initargs)
