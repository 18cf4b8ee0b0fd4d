"""Reading the project's YAML files: studies, methods, protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mlip.errors import UserError

# libyaml's parser takes a tenth of the time of the one in Python, which every short job would pay for each method.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML (or JSON) file holds.

    Raises
    ------
    UserError : it cannot be read, is not YAML, or holds no mapping.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=path, fix="check the file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"is not valid YAML ({problem})", where=path, fix="correct the syntax") from None
    if not isinstance(found, dict):
        raise UserError("holds no keys", where=path, fix="compare it with another file of its folder")
    return found
