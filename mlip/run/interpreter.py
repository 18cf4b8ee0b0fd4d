"""Which Python the jobs of a run call."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def own_python_first() -> None:
    """Jobs call ``python``: let it be this process's own, also where its environment is not activated.

    A conda environment of a rule (``--use-conda``) is activated in the job, so it comes before this one.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
