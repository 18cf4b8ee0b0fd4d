"""The transfer tasks there are, and their named protocols."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import ValidationError

from benchmarks.tasks.shared.task import Task
from mlip.catalogue import find_modules
from mlip.errors import UserError
from mlip.paths import ROOT
from mlip.study import describe
from mlip.yaml_files import read_yaml

PROTOCOLS = ROOT / "benchmarks" / "protocols"


@cache
def tasks() -> dict[str, Task]:
    """Every module or package of ``benchmarks/tasks`` that sets ``TASK``, by name."""
    return {name: module.TASK for name, module in find_modules("benchmarks.tasks", "TASK").items()}


def read_protocol(task: str, name: str) -> Any:
    """``benchmarks/protocols/<task>/<name>.yaml``, validated by the task's own protocol model.

    Raises
    ------
    UserError : there is no such protocol, or a key is unknown or has a wrong value.
    """
    path = PROTOCOLS / task / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise UserError(f"there is no protocol {name!r} for {task}", where=path, fix=f"use one of {known} or write it")
    try:
        return tasks()[task].Protocol.model_validate({"name": name, **read_yaml(path)})
    except ValidationError as error:
        raise UserError(describe(error), where=path, fix="see docs/protocols.md") from None
