"""A file that is newer than whatever a study holds, outside of it."""

from __future__ import annotations

import atexit
import os
import tempfile
from functools import cache
from pathlib import Path


@cache
def newest_file() -> str:
    """Made now, gone with this process; not in the study's folders, which a dry run leaves as they are."""
    handle, name = tempfile.mkstemp(prefix="mlip-newest-")
    os.close(handle)
    atexit.register(Path(name).unlink, missing_ok=True)
    return name
