"""What a study consists of, worked out once: rows, data, blocks, evaluations, and what each depends on.

``resolve(study)`` is also the check before anything runs. The Snakefile, the stages, the doctor, the tables and the
analyses all take the plan it gives, so that they cannot disagree about what belongs to a study.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.tasks.catalogue import read_protocol, tasks
from benchmarks.tasks.shared.binding import unbound
from benchmarks.tasks.shared.task import MetricSpec, Source, Task, protocol_of
from mlip import source_code
from mlip.data.catalogue import resolve as resolve_reader
from mlip.data.records import Reader
from mlip.errors import UserError
from mlip.fetch.addresses import names as fetchable
from mlip.fingerprints import Fingerprint, Fingerprints, fingerprint_of_encoders, fingerprint_of_weights
from mlip.log import logger
from mlip.methods import Entry, entries, method_class
from mlip.paths import StudyPaths
from mlip.study import Study
from mlip.twin.catalogue import writer_names


@dataclass(frozen=True)
class Row:
    """A line of a table: a method of the study, a control of the task (``entry`` None), or a broken method folder."""

    name: str
    title: str
    seeds: tuple[int, ...]
    entry: Entry | None
    fault: str = ""  # what is wrong with the method's folder

    @property
    def control(self) -> bool:
        """Controls are shown below the methods and take no rank."""
        return not self.fault and (self.entry is None or self.entry.status == "control")


def told(entry: Entry) -> list[Any]:
    """What the pages say of a checkpoint that others trained; [] of a row of this study's own training."""
    return [entry.weights.path.name, entry.weights.trained_on] if entry.weights else []


@dataclass(frozen=True)
class Block:
    """Everything that shares a test set: one task under one protocol on one data set."""

    task: Task
    task_name: str
    protocol: Any  # with the study's budget applied
    protocol_name: str
    dataset: str
    source: Source
    specs: tuple[MetricSpec, ...]
    plan: dict[int, list[int]]  # fraction -> draws
    rows: tuple[Row, ...]

    def drawn(self, fraction: int) -> bool:
        """Whether the labels of a fraction are a choice among several."""
        unit = self.task.fraction_unit
        return bool(unit) and not (unit == "%" and fraction == 100)


@dataclass(frozen=True)
class Evaluation:
    """One predictions file of the study."""

    task: str
    protocol: str
    dataset: str
    row: str  # a method's or a control's name
    seed: int
    control: bool


@dataclass(frozen=True)
class Plan:
    """A resolved study. Build it with :func:`resolve`."""

    study: Study
    paths: StudyPaths
    rows: dict[str, Entry]
    broken: dict[str, str]  # rows whose method folder is broken -> what is wrong
    sources: dict[str, Source]  # the data sets
    blocks: tuple[Block, ...]
    fingerprints: Fingerprints

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every predictions file the study needs; what a method cannot do is left out (see ``Task.skip_reason``)."""
        return tuple(
            Evaluation(b.task_name, b.protocol_name, b.dataset, row.name, seed, row.entry is None)
            for b in self.blocks
            for row in b.rows
            if not row.fault and (row.entry is None or not b.task.skip_reason(row.entry, b.dataset))
            for seed in row.seeds
        )

    @cached_property
    def feature_sets(self) -> tuple[str, ...]:
        """Data sets of which some task wants frozen features."""
        return tuple(sorted({b.dataset for b in self.blocks if b.task.needs == "features"}))

    @property
    def trains(self) -> bool:
        """Whether a row learns from reports."""
        return any(entry.trained for entry in self.rows.values())

    def block(self, task: str, protocol: str, dataset: str) -> Block:
        """Raises UserError where the study has no such block."""
        for block in self.blocks:
            if (block.task_name, block.protocol_name, block.dataset) == (task, protocol, dataset):
                return block
        raise UserError(
            f"study {self.study.study} has no {task} under {protocol} on {dataset}",
            fix=f"one of {', '.join(f'{b.task_name} {b.protocol_name} {b.dataset}' for b in self.blocks)}",
        )

    def row(self, name: str) -> Entry:
        """Raises UserError where the study has no such row, or its method folder is broken."""
        if name in self.broken:
            raise UserError(self.broken[name])
        if name not in self.rows:
            raise UserError(f"study {self.study.study} has no row {name!r}", fix=f"one of {', '.join(self.rows)}")
        return self.rows[name]

    def is_made(self, stage: str, names: tuple[object, ...], fingerprint: Fingerprint) -> bool:
        """Whether what a job made last is what it would make today (``mlip/run/jobs.py`` notes it)."""
        try:
            noted = json.loads(self.paths.made(stage, *names).read_text(encoding="utf-8"))["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return bool(noted == fingerprint.key)

    # --- fingerprints -------------------------------------------------------------------------------------------------

    def training(self, row: str, seed: int) -> Fingerprint:
        return self.fingerprints.training(self.row(row), int(seed))

    def features(self, row: str, seed: int, dataset: str) -> Fingerprint:
        return self.fingerprints.features(self.row(row), int(seed), dataset)

    def evaluation(self, task: str, protocol: str, dataset: str, row: str, seed: int) -> Fingerprint:
        block = self.block(task, protocol, dataset)
        entry = None if row in block.task.controls else self.row(row)
        settings = [block.task.settings(block.protocol, block.source), sorted(block.plan.items())]
        features = block.task.needs == "features"
        return self.fingerprints.evaluation(task, dataset, settings, entry, row, int(seed), features)

    def tables(self) -> Fingerprint:
        """What the pages print beside predictions."""
        study = self.study
        printed = [study.title, study.data_note, study.published, study.statistics.model_dump(mode="json")]
        printed += [[b.protocol.model_dump(mode="json"), sorted(b.plan.items())] for b in self.blocks]
        printed += [[r.name, r.title, r.fault, r.entry and r.entry.standing] for b in self.blocks for r in b.rows]
        if external := [[n, *seen] for n, e in self.rows.items() if (seen := told(e))]:
            printed.append(external)
        keys = [self.evaluation(e.task, e.protocol, e.dataset, e.row, e.seed).key for e in self.evaluations]
        return self.fingerprints.tables([printed, keys])


def resolve(study: Study, look: bool = True) -> Plan:
    """Work out a study and check everything that can be known to be wrong before anything runs.

    Parameters
    ----------
    look : also look into the folders of the data sets. The jobs of a run leave that to the run.

    Raises
    ------
    UserError : an unknown reader, writer, method, task, protocol or option; a data root that is missing or lacks a file
        or a column; an encoder that cannot be built; a checkpoint that does not fit; a data set that does not fit a task. A broken method folder is no
        error: it becomes a row of ``broken``.
    """
    check_names(study)
    configs = [(name, config, tasks()[name]) for name, config in study.tasks.items()]
    sources = {name: source_of(study, name) for name in study.datasets}
    if look:
        for name, source in sources.items():
            look_at(study, name, source.reader, source.options)
    rows, broken = entries(study)
    _check_corpus(study, rows)
    if look:
        _check_encoders(study, rows)
        for entry in rows.values():
            _check_weights(study, entry)
    blocks = [
        _block(study, name, config, task, protocol, sources[dataset], rows, broken)
        for name, config, task in configs
        for protocol, dataset in config.pairs
    ]
    draws = {d: max([c.draws for _, c, t in configs if t.label_draws and d in c.datasets], default=1) for d in sources}
    plan = Plan(
        study,
        StudyPaths(study),
        rows,
        broken,
        sources,
        tuple(blocks),
        Fingerprints(study, draws),
    )
    source_code.save_hashes()
    for block in blocks if look else ():
        splits = plan.paths.splits(block.dataset)
        if problem := unbound(block.task, block.protocol, block.source, block.plan, splits):
            logger.warning(problem)
    return plan


def check_block(study: Study, task: str, protocol: str, dataset: str) -> None:
    """Raise UserError where a task cannot be done under a protocol on a data set of the study."""
    check_names(study)
    source = source_of(study, dataset)
    tasks()[task].check(protocol_of(study, tasks()[task], read_protocol(task, protocol), source), source, study)


def look_at(study: Study, name: str, reader: Reader, options: Any) -> str:
    """Make sure that the folder of a data set holds its tables; the version found, "" for one that the study writes itself.

    Raises
    ------
    UserError : it does not.
    """
    config = study.datasets[name]
    if generated(study, name):
        return ""
    if not config.root.is_dir():
        raise UserError(
            f"the data set {name} is not there", where=config.root, fix=how_to_obtain(reader, config.reader, name)
        )
    return reader.verify(config.root, options)


def generated(study: Study, name: str) -> bool:
    """Whether the study's own twin writes this data set's folder."""
    if study.twin is None:
        return False
    root = study.datasets[name].root.resolve()
    return any(d.twin is not None and d.root.resolve() == root for d in study.datasets.values())


def how_to_obtain(reader: Reader, kind: str, name: str) -> str:
    """What to do where the folder of a data set is not there; ``kind`` is its reader's name."""
    fetched = f"`mlip fetch {kind}`, or " if kind in fetchable() else ""
    return (
        f"{fetched}obtain {reader.title} ({reader.access}) and set datasets.{name}.root to the folder that holds "
        f"{reader.layout}"
    )


def check_names(study: Study) -> None:
    """Raise UserError where the study names a writer or a task that does not exist."""
    for name, hospital in (study.twin.datasets if study.twin else {}).items():
        if hospital.writer not in writer_names():
            raise UserError(
                f"twin.datasets.{name}.writer is {hospital.writer!r}",
                where=f"study {study.study}",
                fix=f"one of {writer_names()}",
            )
    for name in study.tasks:
        if name not in tasks():
            raise UserError(f"tasks names {name!r}", where=f"study {study.study}", fix=f"one of {sorted(tasks())}")


def source_of(study: Study, name: str) -> Source:
    """A data set of the study as tasks see it; UserError where its reader or an option is unknown."""
    reader, options = resolve_reader(study, name)
    return Source(name, study.datasets[name].reader, getattr(options, "subset", None) or "", reader, options)


def _check_corpus(study: Study, rows: dict[str, Entry]) -> None:
    """Raise UserError where a row learns from films and the study names none to learn from."""
    needy = [name for name, entry in rows.items() if entry.trained or entry.calibrated]
    if needy and not study.pretrain.datasets:
        raise UserError(
            f"pretrain.datasets is empty, and {', '.join(needy)} {'learns' if len(needy) == 1 else 'learn'} from films",
            where=f"study {study.study}",
            fix="name a data set there, or take these rows out of `methods`",
        )


def _check_encoders(study: Study, rows: dict[str, Entry]) -> None:
    """Building encoders imports torch and timm: what passed once is not built again to be checked."""
    own = [entry for entry in rows.values() if not entry.external]
    named = {entry.encoder_key: (entry.start or study.encoders.image(entry.encoder), entry.encoder) for entry in own}
    starts = [(config, kind, key) for key, (config, kind) in sorted(named.items())]
    stages = any(tasks()[name].needs_maps for name in study.tasks)
    check = fingerprint_of_encoders(study, starts, stages)
    if not source_code.passed(check):
        from mlip.encoders.check import check_encoders

        check_encoders(study, starts, stages)
        source_code.remember_passed(check)


def _check_weights(study: Study, entry: Entry) -> None:
    """Whether a row's checkpoint can be read and fits, by names and shapes; what passed once is not read again."""
    if entry.weights is None:
        return
    stages = entry.manifest.feature_maps and any(tasks()[name].needs_maps for name in study.tasks)
    check = fingerprint_of_weights(study, entry, stages)
    if source_code.passed(check):
        return
    from mlip.encoders.check import check_stages

    method_class(entry.folder).check_weights(entry.weights, entry.encoder, study.input_side, entry.weights_key)
    if stages and entry.weights.architecture:
        check_stages(entry.image_config(study), entry.encoder, study, entry.weights_key)
    source_code.remember_passed(check)


def _block(
    study: Study,
    name: str,
    config: Any,
    task: Task,
    protocol_name: str,
    source: Source,
    entries_: dict[str, Entry],
    broken: dict[str, str],
) -> Block:
    protocol = protocol_of(study, task, read_protocol(name, protocol_name), source)
    task.check(protocol, source, study)
    plan: dict[int, list[int]] = {}
    for fraction, draw in task.plan(protocol, config):
        plan.setdefault(fraction, []).append(draw)
    specs = task.metrics(protocol, source)
    if len({s.title for s in specs}) < len(specs):
        raise UserError(
            f"{name} has two metrics of one title on {source.name}",
            where=f"protocol {protocol_name}",
            fix="give each its own",
        )
    rows = tuple(table_rows(study, entries_, broken, task.controls))
    return Block(task, name, protocol, protocol_name, source.name, source, tuple(specs), plan, rows)


def table_rows(
    study: Study, entries_: dict[str, Entry], broken: dict[str, str], controls: Sequence[str] = ()
) -> list[Row]:
    """Methods in the order of the study, methods that are controls after them, then the task's own controls."""
    seeds = tuple(study.pretrain.seeds)
    found = [Row(name, entry.title, tuple(entry.seeds(study)), entry) for name, entry in entries_.items()]
    found += [Row(name, name, seeds, None, fault) for name, fault in broken.items()]
    found += [Row(name, name.replace("_", " ").replace("-", " ").capitalize(), (0,), None) for name in controls]
    return sorted(found, key=lambda row: (row.control, row.entry is None))
