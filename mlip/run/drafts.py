"""Folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlip.errors import UserError


@contextmanager
def complete(folder: Path) -> Iterator[Path]:
    """A draft beside ``folder``, which takes its name when the block has ended without an error.

    Raises
    ------
    UserError : there is something under that name already.
    """
    if folder.exists():
        raise UserError("is there already", where=folder, fix="name a new folder, or delete it")
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
