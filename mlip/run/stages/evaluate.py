"""One predictions file: a task under a protocol on a data set, for one row and seed."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from benchmarks.scores.predictions import write_predictions
from benchmarks.tasks.shared.task import EvalJob
from mlip.devices import best_device

if TYPE_CHECKING:
    from typing import Any

    from benchmarks.plan import Plan


def run(plan: Plan, task: str, protocol: str, dataset: str, row: str, seed: int, made_from: dict[str, Any]) -> None:
    """``made_from``: what is noted in the file about the inputs, beside its own fingerprint."""
    block = plan.block(task, protocol, dataset)
    control = row in block.task.controls
    output = plan.paths.predictions(task, protocol, dataset, row, seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    made_by = plan.evaluation(task, protocol, dataset, row, seed).key
    job = EvalJob(
        study=plan.study,
        paths=plan.paths,
        task=plan.study.tasks[task],
        protocol=block.protocol,
        protocol_name=protocol,
        source=block.source,
        method=row,
        seed=seed,
        entry=None if control else plan.row(row),
        device=best_device("cpu" if control or block.task.needs == "features" else plan.study.device),
        output=output,
        made_by=made_by,
    )
    started, used = time.monotonic(), time.process_time()
    frame = block.task.run_control(job) if control else block.task.run(job)
    cost = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - used}
    meta = {"task": task, "protocol": protocol, "dataset": dataset, "method": row, "seed": seed, **made_from}
    meta["fingerprint"] = made_by
    write_predictions(frame, output, {**meta, **{name: round(value, 2) for name, value in cost.items()}})
    shutil.rmtree(job.state, ignore_errors=True)
