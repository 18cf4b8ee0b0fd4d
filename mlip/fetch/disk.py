"""Room on the disk: asked for before anything is loaded, and a full disk is one line."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlip.errors import UserError

_FIX = "free space there, name another disk with --to, or load less with --first"


def need_room(folder: Path, needed: int) -> None:
    """Raise UserError where fewer than ``needed`` bytes are free below ``folder``, which need not be there yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    if (free := shutil.disk_usage(there).free) < needed:
        raise UserError(f"{needed / 1e9:,.2f} GB are needed, {free / 1e9:,.2f} GB are free", where=folder, fix=_FIX)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Run a block that writes below ``folder``; UserError where the disk or a quota is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError("no space is left", where=folder, fix=_FIX) from None
