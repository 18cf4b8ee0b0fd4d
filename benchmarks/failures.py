"""Why a predictions file is not there: the reason that the job, or one of those before it, left (``mlip/run/jobs.py``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan, Row
    from mlip.fingerprints import Fingerprint


def reason_of_failure(plan: Plan, block: Block, row: Row, seed: int) -> str:
    """The reason of the first job on the way to this evaluation that failed as it would today, or ""."""
    for words, path, wanted in _way(plan, block, row, seed):
        reason, made_for = _read(path)
        if reason and made_for in ("", wanted.key):
            return f"{words}{reason}"
    return ""


def _way(plan: Plan, block: Block, row: Row, seed: int) -> Iterator[tuple[str, Path, Fingerprint]]:
    """(words before the reason, file, fingerprint of what was to be made), from the ground up."""
    prints, failure, dataset = plan.fingerprints, plan.paths.failure, block.dataset
    for name in dict.fromkeys([*(plan.study.pretrain.datasets if row.entry else ()), dataset]):
        if twin := plan.study.datasets[name].twin:
            yield "the virtual patients failed: ", failure("anatomy"), prints.anatomy()
            yield f"the virtual hospital {twin} failed: ", failure("twin", twin), prints.twin(twin)
        yield f"the data set {name} failed: ", failure("data", name), prints.store(name)
        yield f"the splits of {name} failed: ", failure("splits", name), prints.splits(name)
    yield "the audit found faults: ", failure("audit"), prints.audit()
    if row.entry:
        yield "the tokeniser failed: ", failure("tokenizer"), prints.tokenizer()
        if row.entry.reads_knowledge:
            yield "the knowledge failed: ", failure("knowledge"), prints.knowledge()
        yield "pre-training failed: ", failure("pretrain", row.name, seed), plan.training(row.name, seed)
        if block.task.needs == "features":
            wanted = plan.features(row.name, seed, dataset)
            yield "its features failed: ", failure("features", row.name, seed, dataset), wanted
    cell = (block.task_name, block.protocol_name, dataset, row.name, seed)
    yield "", failure("evaluate", *cell), plan.evaluation(*cell)


def _read(path: Path) -> tuple[str, str]:
    """(reason, fingerprint), both "" where nothing failed."""
    if not path.is_file():
        return "", ""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return " ".join(str(found["reason"]).split()) or "failed without a reason", str(found["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return "failed, and its reason cannot be read", ""
