"""Whether the label fractions of a block bind: whether a training that has more labels also sees more films."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmarks.tasks.shared.task import Source, Task


def unbound(task: Task, protocol: Any, source: Source, fractions: Collection[int], splits: Path) -> str:
    """What is wrong, or "". Nothing is said of one fraction alone, nor before the data set is divided (``splits``).

    The count is a bound: batches that hold as many positive as negative films see fewer, and so does a training that
    validation stops. The predictions hold what was seen (``seen`` of ``labelled``).
    """
    if not task.label_draws or len(fractions) < 2:
        return ""
    try:
        films = int(json.loads(splits.with_suffix(".json").read_text(encoding="utf-8"))["counts"]["train"])
    except (OSError, ValueError, KeyError):
        return ""
    counts = {f: max(1, round(films * f / 100)) for f in sorted(fractions)}
    seen = {f: task.most_seen(protocol, source, f, count) for f, count in counts.items()}
    short = [f"{f} % {seen[f]} of {counts[f]}" for f in counts if seen[f] < counts[f]]
    if not short:
        return ""
    return (
        f"{task.name} under {protocol.name} on {source.name}: trainings are too short to see the films that they have labels of "
        f"({'; '.join(short)}), so that these fractions are not what they are called: raise {task.length_keys} "
        f"(tasks.{task.name}.budget), or use a protocol whose length is in epochs"
    )
