"""``mlip wanted``: the films and texts of which a row of embeddings must give vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from benchmarks.tasks.shared.task import EvalJob
from mlip.errors import UserError

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan


def write_wanted(plan: Plan, out: Path) -> list[Path]:
    """Write ``films.parquet`` (dataset, reader, image_id) and ``texts.parquet`` (text) into ``out``, readable by their owner only:
    they hold the data sets' own identifiers and reports.

    Raises
    ------
    UserError : a data set is not there, or the stores and splits that hold the reports are not made yet.
    """
    films = []
    for name in sorted({block.dataset for block in plan.blocks}):
        source, root = plan.sources[name], plan.study.datasets[name].root
        if not root.is_dir():
            raise UserError(f"the data set {name} is not there", where=root, fix="run the study up to its stores first")
        ids = [record.image_id for record in source.reader.records(root, source.options)]
        films.append(pd.DataFrame({"dataset": name, "reader": source.kind, "image_id": ids}))
    texts = dict.fromkeys(text for block in plan.blocks for text in block.task.texts(_job(plan, block)))
    tables = {"films": pd.concat(films, ignore_index=True), "texts": pd.DataFrame({"text": list(texts)})}
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, table in tables.items():
        path = out / f"{name}.parquet"
        path.touch(mode=0o600)
        table.to_parquet(path, index=False)
        paths.append(path)
    return paths


def _job(plan: Plan, block: Block) -> EvalJob:
    config = plan.study.tasks[block.task_name]
    return EvalJob(
        plan.study, plan.paths, config, block.protocol, block.protocol_name, block.source, "", 0, None,
        torch.device("cpu"), Path(),
    )  # fmt: skip
