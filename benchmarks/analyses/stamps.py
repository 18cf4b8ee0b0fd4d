"""What the results of an analysis were made from, kept beside the work: only what is of today's making is linked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlip.fingerprints import Fingerprint


def write_stamp(path: Path, fingerprint: Fingerprint) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"fingerprint": fingerprint.key}) + "\n", encoding="utf-8")


def is_current(path: Path, fingerprint: Fingerprint) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["fingerprint"] == fingerprint.key)
    except (OSError, ValueError, KeyError):
        return False
