"""The layouts in which virtual hospitals can be written."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from mlip.catalogue import find_names


@cache
def writer_names() -> list[str]:
    """Every module of ``mlip/twin/writers`` that defines ``write``, by file name."""
    return find_names("mlip.twin.writers", "write")


def twin_writer(name: str) -> Any:
    """One of them, imported."""
    return importlib.import_module(f"mlip.twin.writers.{name}")
