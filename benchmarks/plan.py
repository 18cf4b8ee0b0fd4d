"""What a study consists of: its rows, its evaluations, and the checks that come before hours are spent.

The Snakefile, the tables and the doctor all ask here, so that they can never disagree about what belongs to a study.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.tasks.catalogue import read_protocol, tasks
from benchmarks.tasks.shared.task import with_budget
from mlip.data.catalogue import readers
from mlip.errors import UserError
from mlip.methods import Entry, entries
from mlip.paths import ROOT
from mlip.study import Study, TaskConfig
from mlip.twin.catalogue import twin_writers


@dataclass(frozen=True)
class Evaluation:
    """One predictions file of the study."""

    task: str
    protocol: str
    dataset: str
    row: str  # a method's or a control's name
    seed: int
    control: bool


def task_protocols(study: Study) -> Iterator[tuple[str, TaskConfig, str, Any]]:
    """(task, its configuration, protocol name, protocol with the study's budget applied)."""
    known = tasks()
    for name, config in study.tasks.items():
        if name not in known:
            raise UserError(f"tasks names {name!r}", where=f"study {study.study}", fix=f"one of {sorted(known)}")
        for protocol_name in config.protocols:
            yield name, config, protocol_name, with_budget(read_protocol(name, protocol_name), config)


def resolve_protocol(study: Study, task: str, name: str) -> Any:
    """One protocol as this study uses it."""
    return with_budget(read_protocol(task, name), study.tasks[task])


def evaluations(study: Study) -> list[Evaluation]:
    """Every predictions file the study needs; cells a method cannot fill are left out (see ``Task.skip_reason``)."""
    rows, found = entries(study), []
    for name, config, protocol_name, _ in task_protocols(study):
        task = tasks()[name]
        for dataset in config.datasets:
            found += [Evaluation(name, protocol_name, dataset, control, 0, True) for control in task.controls]
            found += [
                Evaluation(name, protocol_name, dataset, row, seed, False)
                for row, entry in rows.items()
                if not task.skip_reason(entry, dataset)
                for seed in study.pretrain.seeds
            ]
    return found


def feature_sets(study: Study) -> list[str]:
    """Data sets of which some task wants frozen features."""
    return sorted(
        {d for name, config in study.tasks.items() if tasks()[name].needs == "features" for d in config.datasets}
    )


def precheck(study: Study) -> None:
    """Everything that can be known to be wrong before anything runs.

    Raises
    ------
    UserError : an unknown reader, writer, method, task, protocol or option; a data root that is missing or lacks a
        file or a column; a data set that does not fit a task.
    """
    for name, data in study.datasets.items():
        if data.reader not in readers():
            raise UserError(
                f"datasets.{name}.reader is {data.reader!r}",
                where=f"study {study.study}",
                fix=f"one of {sorted(readers())}",
            )
    for name, hospital in (study.twin.datasets if study.twin else {}).items():
        if hospital.writer not in twin_writers():
            raise UserError(
                f"twin.datasets.{name}.writer is {hospital.writer!r}",
                where=f"study {study.study}",
                fix=f"one of {sorted(twin_writers())}",
            )
    from mlip.run.doctor import precheck as precheck_data

    precheck_data(study)
    entries(study)
    for name, task_config, _, resolved in task_protocols(study):
        for dataset in task_config.datasets:
            tasks()[name].check(resolved, dataset, study)


def fingerprint(*parts: Any) -> str:
    """A short hash of configuration, given to Snakemake as a parameter so that a change of it reruns what it moves."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def data_fingerprint(study: Study, dataset: str) -> str:
    config = study.datasets[dataset]
    twin = study.twin and config.twin and [study.twin.anatomies, study.twin.size, study.twin.datasets[config.twin]]
    return fingerprint(study.seed, study.image_size, config.model_dump(mode="json"), str(twin))


def splits_fingerprint(study: Study, dataset: str) -> str:
    return fingerprint(study.seed, study.datasets[dataset].split, max(t.draws for t in study.tasks.values()))


def training_fingerprint(study: Study, entry: Entry) -> str:
    """The configuration, and the method's own code: an edited method trains anew, the other rows stay."""
    shape = study.model_dump(mode="json", include={"seed", "image_size", "encoders", "knowledge", "pretrain"})
    shape["pretrain"].pop("checkpoint_seconds")
    recipe = entry.manifest.recipes.get(study.pretrain.recipe)
    return fingerprint(
        shape,
        recipe and recipe.model_dump(exclude={"provenance"}),
        entry.encoder,
        entry.components,
        entry.params,
        entry.seed,
        code_of(entry),
    )


def code_of(entry: Entry) -> str:
    """Hash of the method's own code and of the shared losses it may call."""
    files = [*sorted(entry.folder.glob("*.py")), *sorted((ROOT / "mlip" / "losses").glob("*.py"))]
    return fingerprint([path.read_text() for path in files])


def evaluation_fingerprint(study: Study, task: str, protocol_name: str, dataset: str) -> str:
    config = study.tasks[task].model_dump(mode="json", include={"fractions", "draws"})
    return fingerprint(study.seed, config, resolve_protocol(study, task, protocol_name).model_dump(), dataset)
