"""The stages of a study, one function each: what a Snakemake rule runs through ``mlip run <stage>``.

Imports are local so that a stage pays for its own libraries only.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlip.errors import UserError
from mlip.log import logger
from mlip.paths import StudyPaths
from mlip.study import Study

if TYPE_CHECKING:
    from mlip.methods import Entry


def anatomy(study: Study, threads: int) -> None:
    """Base projections of the virtual patients."""
    from mlip.twin.anatomy import build_anatomies

    assert study.twin is not None
    build_anatomies(StudyPaths(study).anatomy, study.twin, study.seed, threads)


def twin(study: Study, dataset: str, threads: int) -> None:
    """One virtual hospital, in the real layout of its data set."""
    from mlip.twin.catalogue import twin_writers

    assert study.twin is not None
    known(study, "virtual hospital", dataset, study.twin.datasets)
    config, paths = study.twin.datasets[dataset], StudyPaths(study)
    folder = paths.work / "raw" / dataset
    writer = twin_writers()[config.writer]
    started = time.monotonic()
    writer.write(folder, paths.anatomy, config.images, config.hospital, study.twin.size, study.seed, threads)
    seconds = time.monotonic() - started
    logger.info(f"{dataset}: {config.images} films in {seconds:.1f} s ({config.images / seconds:.0f} films/s)")


def data(study: Study, dataset: str, threads: int) -> None:
    """The image store of one data set."""
    from mlip.data.store import build_store

    known(study, "data set", dataset, study.datasets)
    build_store(dataset, study, threads)


def splits(study: Study, dataset: str) -> None:
    from mlip.data.splits import build_splits

    known(study, "data set", dataset, study.datasets)
    build_splits(dataset, study)


def audit(study: Study) -> None:
    from mlip.data.audit import audit as run_audit

    run_audit(study)


def tokenizer(study: Study) -> None:
    """The word-piece vocabulary: trained on the training reports, or the pre-trained encoder's own."""
    from mlip.text.tokenisation import Tokenizer, train_tokenizer

    config, folder = study.encoders.text, StudyPaths(study).tokenizer
    if config.pretrained:
        Tokenizer.pretrained(config.pretrained, config.max_tokens).save(folder)
        return
    from mlip.pretraining.batches import Pairs

    texts = [report.text for report in Pairs(study, "train").reports]
    train_tokenizer(texts, config.vocabulary, config.max_tokens).save(folder)


def knowledge(study: Study) -> None:
    from mlip.knowledge.entities import build_knowledge

    build_knowledge(study.knowledge, study.seed).save(StudyPaths(study).knowledge)


def pretrain(study: Study, method: str, seed: int) -> None:
    from mlip.pretraining.loop import pretrain as train

    train(study, _row(study, method), seed)


def features(study: Study, method: str, seed: int) -> None:
    """Frozen features of one row on every data set that a task wants them of."""
    from benchmarks.plan import feature_sets
    from benchmarks.tasks.shared.features import extract
    from mlip.devices import best_device

    extract(study, StudyPaths(study), _row(study, method), seed, feature_sets(study), best_device(study.device))


def evaluate(study: Study, task: str, protocol: str, dataset: str, method: str, seed: int) -> None:
    """One predictions file. A failure leaves ``*.failed.json``, which the tables print as the cell's reason."""
    from benchmarks.plan import resolve_protocol
    from benchmarks.scores.predictions import failure_path, write_predictions
    from benchmarks.tasks.catalogue import tasks
    from benchmarks.tasks.shared.task import EvalJob
    from mlip.devices import best_device
    from mlip.methods import entries

    known(study, "task", task, study.tasks)
    paths, found, rows = StudyPaths(study), tasks()[task], entries(study)
    known(study, "data set", dataset, study.datasets)
    known(study, "row", method, {*rows, *found.controls})
    output = paths.predictions(task, protocol, dataset, method, seed)
    failed = failure_path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    is_control = method in found.controls
    job = EvalJob(
        study=study,
        paths=paths,
        task=study.tasks[task],
        protocol=resolve_protocol(study, task, protocol),
        protocol_name=protocol,
        dataset=dataset,
        method=method,
        seed=seed,
        entry=None if is_control else rows[method],
        device=best_device("cpu" if is_control else study.device),
        output=output,
    )
    started, used = time.monotonic(), time.process_time()
    try:
        frame = found.run_control(job) if is_control else found.run(job)
    except Exception as error:
        reason = (
            str(error)
            if isinstance(error, UserError)
            else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )
        output.unlink(missing_ok=True)
        failed.write_text(json.dumps({"reason": reason}) + "\n")
        raise
    meta = {"task": task, "protocol": protocol, "dataset": dataset, "method": method, "seed": seed}
    cost = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - used}
    write_predictions(frame, output, {**meta, **{name: round(value, 2) for name, value in cost.items()}})


def maps(study: Study, method: str, seed: int) -> None:
    """Where one row looks on test films: a figure and its numbers."""
    from benchmarks.analyses.maps import write_maps
    from mlip.devices import best_device

    write_maps(study, _row(study, method), seed, best_device(study.device))


def false_negatives(study: Study) -> None:
    """How the rows treat different patients with equal findings."""
    from benchmarks.analyses.false_negatives import write_page
    from mlip.devices import best_device

    write_page(study, best_device(study.device))


def tables(study: Study) -> None:
    """Tables and leaderboard from whatever predictions exist."""
    from benchmarks.report.tables import build_tables

    build_tables(study)


def _row(study: Study, name: str) -> Entry:
    from mlip.methods import entries

    rows = entries(study)
    known(study, "row", name, rows)
    return rows[name]


def known(study: Study, what: str, name: str, among: Iterable[str]) -> None:
    """Raises a UserError where a study has no such data set, row or task."""
    names = sorted(among)
    if name not in names:
        raise UserError(f"study {study.study} has no {what} {name!r}", fix=f"one of {', '.join(names)}")


def limit_threads(threads: int) -> None:
    """Keep BLAS and OpenMP to the cores Snakemake gave the job; the variables count where numpy and torch come later."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:  # a job of a warm server (mlip/run/warm.py)
        sys.modules["torch"].set_num_threads(threads)
