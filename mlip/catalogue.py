"""Finds modules by looking at folders: a file that declares itself is found by its name, nothing is registered by hand."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def find_names(package: str, need: str) -> list[str]:
    """Names of the modules and packages directly inside ``package`` that define ``need`` at their top level; none is imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = {p.stem: p for p in folder.glob("*.py") if not p.stem.startswith("_")}
    files |= {p.parent.name: p for p in folder.glob("*/__init__.py")}
    signs = (f"\n{need} =", f"\n{need}:", f"\ndef {need}(")
    return sorted(
        name for name, path in files.items() if any(sign in path.read_text(encoding="utf-8") for sign in signs)
    )


def find_modules(package: str, need: str) -> dict[str, ModuleType]:
    """Those modules, imported, by name. What declares nothing is not imported: looking must not cost Detectron2."""
    return {name: importlib.import_module(f"{package}.{name}") for name in find_names(package, need)}
