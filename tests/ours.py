"""What belongs to the project: the files of the commit that is checked out. What a user adds beside them is held to less."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from mlip.methods import method_folders
from tests.conftest import ROOT


@cache
def tracked() -> frozenset[Path] | None:
    """Files at HEAD; None outside a git checkout, where everything counts as the project's."""
    try:
        top, names = (
            subprocess.run(["git", "-C", str(ROOT), *args], check=True, capture_output=True, text=True).stdout
            for args in (("rev-parse", "--show-toplevel"), ("ls-tree", "-r", "-z", "--name-only", "HEAD"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    if Path(top.strip()) != ROOT:  # unpacked inside some other repository
        return None
    return frozenset(ROOT / name for name in names.split("\0") if name)


def ours(paths: Iterable[Path]) -> list[Path]:
    """Those of the files that are the project's, in order."""
    known = tracked()
    return sorted(p for p in paths if known is None or p in known)


def our_methods() -> dict[str, Path]:
    """The project's method folders, by name."""
    folders = method_folders()
    return {f.name: f for f in (p.parent for p in ours(f / "method.yaml" for f in folders.values()))}


def our_readers() -> list[str]:
    """The project's readers, by name."""
    from mlip.data.catalogue import readers

    return _modules(ROOT / "mlip" / "data" / "readers", readers())


def our_writers() -> list[str]:
    """The project's writers of virtual patients, by name."""
    from mlip.twin.catalogue import writer_names

    return _modules(ROOT / "mlip" / "twin" / "writers", writer_names())


def _modules(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the modules, files or packages, that are the project's."""
    return [name for name in names if ours([folder / f"{name}.py", folder / name / "__init__.py"])]
