"""What a study will cost, before it runs: hours, disk and memory by stage, and whether this machine has them.

An estimate out of the formulas of ``mlip/run/needs.py``, which name what was measured and what is assumed (docs/scaling.md).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlip.run.needs import ON_GPU, PRETRAIN, Need, Needs, gpus_here
from mlip.study import Study

if TYPE_CHECKING:
    from benchmarks.plan import Plan

FEATURES = 2_048  # numbers of a pooled feature, of the widest encoder
PREDICTED = 60  # bytes of a prediction of one film, compressed
TESTED = 0.3  # of the films are in the test part
GB = 1e9


@dataclass
class StageCost:
    """All jobs of one rule."""

    stage: str
    jobs: int
    hours: float  # of jobs, on the cores of this machine, without a GPU
    gpu_hours: float | None  # of GPUs as assumed; None where a GPU does nothing for it
    disk_gb: float  # that stays
    memory_gb: float  # of the host, of the largest job
    cores: int  # of the largest job


@dataclass
class Cost:
    stages: list[StageCost]
    largest_batch_gb: float  # of a GPU, of the training that needs most
    short: list[str] = field(default_factory=list)  # what this machine has too little of

    @property
    def disk_gb(self) -> float:
        return sum(stage.disk_gb for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        return sum(stage.gpu_hours or 0.0 for stage in self.stages)

    @property
    def core_hours(self) -> float:
        """Without a GPU."""
        return sum(stage.hours * stage.cores for stage in self.stages)


def estimate(plan: Plan) -> Cost:
    """What the whole study costs; what is made already is not taken off."""
    cores = os.cpu_count() or 1
    slow, fast = Needs(plan, 0, cores), Needs(plan, 1, cores)
    disk = _disk(plan, slow)
    stages = []
    for stage, names in _jobs(plan).items():
        without = [slow.of(stage, *job) for job in names]
        with_one = [fast.of(stage, *job) for job in names] if stage in ON_GPU else []
        if without:
            stages.append(_sum(stage, without, with_one, disk.get(stage, 0.0)))
    trained = [entry for entry in plan.rows.values() if entry.trained]
    batch = max((slow.gpu_memory(entry) for entry in trained), default=0.0) / 1e3
    cost = Cost(stages, batch)
    cost.short = list(_short(plan.study, cost))
    return cost


def _sum(stage: str, without: list[Need], with_one: list[Need], disk: float) -> StageCost:
    on_gpu = sum(need.hours * need.gpu for need in with_one) if any(need.gpu for need in with_one) else None
    largest = max(need.mem_mb for need in without) / 1e3
    return StageCost(
        stage, len(without), sum(need.hours for need in without), on_gpu, disk, largest, max(n.threads for n in without)
    )


def _jobs(plan: Plan) -> dict[str, list[tuple[str, ...]]]:
    """The jobs of each rule, as ``Needs.of`` takes them."""
    study = plan.study
    twin, names = study.twin, list(study.datasets)
    seeds = [(row, str(seed)) for row, entry in plan.rows.items() for seed in entry.seeds(study)]
    analyses: dict[str, list[tuple[str, ...]]] = {
        name: [()] for name in ("false_negatives", "parts") if name in study.analyses
    }
    if "maps" in study.analyses:
        analyses["maps"] = [(row,) for row, entry in plan.rows.items() if entry.trained]
    return {
        "anatomy": [()] if twin else [],
        "twin": [(name,) for name in twin.datasets] if twin else [],
        "store": [(name,) for name in names],
        "splits": [(name,) for name in names],
        "audit": [()],
        "tokenizer": [()] if plan.trains else [],
        "knowledge": [()] if any(entry.reads_knowledge for entry in plan.rows.values()) else [],
        PRETRAIN: list(seeds),
        "features": [(row, seed, dataset) for row, seed in seeds for dataset in plan.feature_sets],
        "evaluate": [(e.task, e.protocol, e.dataset, e.row, str(e.seed)) for e in plan.evaluations],
        **analyses,
        "tables": [()],
    }


def _disk(plan: Plan, needs: Needs) -> dict[str, float]:
    """GB that stay of each stage: uint8 films (and masks), weights in float32, features in float32."""
    study = plan.study
    trainings = [(entry, len(entry.seeds(study))) for entry in plan.rows.values()]
    planes = {name: 2 if source.reader.mask_name else 1 for name, source in plan.sources.items()}
    heads = sum(
        needs.films(e.dataset) * sum(map(len, plan.block(e.task, e.protocol, e.dataset).plan.values()))
        for e in plan.evaluations
    )
    twin = study.twin
    return {
        "twin": sum(d.images for d in twin.datasets.values()) * 2 * twin.size**2 / GB if twin else 0.0,
        "store": sum(needs.films(name) * planes[name] * study.image_size**2 for name in planes) / GB,
        # encoder.safetensors beside method.safetensors, and the state of a training under way: weights and two moments.
        PRETRAIN: sum(4 * needs.weights(entry) * 1e6 * (2 * seeds + 3 * entry.trained) for entry, seeds in trainings)
        / GB,
        "features": sum(seeds for _, seeds in trainings) * sum(map(needs.films, plan.feature_sets)) * 4 * FEATURES / GB,
        "evaluate": heads * TESTED * PREDICTED / GB,
    }


def _short(study: Study, cost: Cost) -> Iterable[str]:
    """What this machine has too little of."""
    folder = next(p for p in (study.work.absolute(), *study.work.absolute().parents) if p.exists())
    if (free := shutil.disk_usage(folder).free / GB) < cost.disk_gb:
        yield f"disk: {folder} has {free:,.0f} GB free, the study leaves {cost.disk_gb:,.0f} GB"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    for stage in cost.stages:
        if stage.memory_gb > memory:
            yield f"memory: a job of {stage.stage} asks for {stage.memory_gb:,.0f} GB, this machine has {memory:,.0f} GB"
    gpus = gpus_here()
    if study.device == "cuda" and not gpus:
        yield "devices: the study asks for a GPU, and this machine shows none"
    if gpus and study.device != "cpu" and study.pretrain.devices > gpus:
        yield f"devices: pretrain.devices is {study.pretrain.devices}, this machine shows {gpus}"
    if gpus and study.device != "cpu" and (room := _device_memory()) < cost.largest_batch_gb:
        yield f"devices: a training holds about {cost.largest_batch_gb:,.0f} GB, the smallest GPU here has {room:,.0f} GB"


def _device_memory() -> float:
    import torch

    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return min(sizes, default=0) / GB


def lines_of(cost: Cost, study: Study) -> list[str]:
    """What is said beneath the table."""
    gpus = gpus_here() if study.device != "cpu" else 0
    cores = os.cpu_count() or 1
    said = [
        f"Disk: {cost.disk_gb:,.1f} GB beside the data, under {Path(study.work)}. "
        f"Time: {cost.core_hours:,.1f} core hours without a GPU, {cost.core_hours / cores:,.1f} hours on the {cores} cores here"
    ]
    if study.device != "cpu":
        shown = f"{cost.gpu_hours / gpus:,.1f} hours on the {gpus} here" if gpus else "this machine shows none"
        said[0] += f"; or {cost.gpu_hours:,.1f} GPU hours of the assumed kind, {shown}"
        said.append(f"The largest training holds about {cost.largest_batch_gb:,.1f} GB of a GPU.")
    said[0] += "."
    said.append(
        "Estimates with stated assumptions (docs/scaling.md), not measurements; what is made already is counted too."
    )
    return said + [f"Too little of {what}." for what in cost.short]
