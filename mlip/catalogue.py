"""Finds modules by looking at folders: a file that declares itself is found by its name, nothing is registered by hand."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def find_modules(package: str, need: str) -> dict[str, ModuleType]:
    """Modules and packages directly inside ``package`` that define the name ``need`` at their top level, by file name.

    Only what declares itself is imported: looking must not cost the import of Detectron2.
    """
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = {p.stem: p for p in folder.glob("*.py") if not p.stem.startswith("_")}
    files |= {p.parent.name: p for p in folder.glob("*/__init__.py")}
    signs = (f"\n{need} =", f"\n{need}:", f"\ndef {need}(")
    return {
        name: importlib.import_module(f"{package}.{name}")
        for name, path in sorted(files.items())
        if any(sign in path.read_text(encoding="utf-8") for sign in signs)
    }
