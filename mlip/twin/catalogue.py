"""The layouts in which virtual hospitals can be written."""

from __future__ import annotations

from functools import cache
from typing import Any

from mlip.catalogue import find_modules


@cache
def twin_writers() -> dict[str, Any]:
    """Every module of ``mlip/twin/writers`` that defines ``write``, by file name."""
    return dict(find_modules("mlip.twin.writers", "write"))
