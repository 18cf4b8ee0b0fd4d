"""Disk space, asked for before it is needed: a memory-mapped write into a full disk is a bus error without a word."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mlip.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota, or largest allowed file


def allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Make an ``.npy`` file for uint8 of this shape whose every block is on the disk; or, of one that is there, make sure of it.

    Raises
    ------
    OSError : there is no room (see :func:`room`).
    """
    if not path.is_file():
        np.lib.format.open_memmap(path, "w+", np.uint8, shape).flush()
    with path.open("r+b") as file:
        # What is written stays; file systems that cannot promise blocks get zeros where the file has holes.
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


@contextmanager
def room(folder: Path, needed: int) -> Iterator[None]:
    """Run a block that writes ``needed`` bytes below ``folder``.

    Raises
    ------
    UserError : the disk, a quota or the largest allowed file is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UserError(
            f"no space left on {folder}, {needed / 1e9:.2g} GB needed", fix="free space, or set `work` to another disk"
        ) from None
