"""One virtual hospital, in the real layout of its data set."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlip.log import logger
from mlip.twin.catalogue import twin_writer

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan, hospital: str, threads: int) -> None:
    study = plan.study
    assert study.twin is not None
    config = study.twin.datasets[hospital]
    folder, writer = plan.paths.hospital(hospital), twin_writer(config.writer)
    started = time.monotonic()
    writer.write(folder, plan.paths.anatomy, config.images, config.hospital, study.twin.size, study.seed, threads)
    seconds = time.monotonic() - started
    logger.info(f"{hospital}: {config.images} films in {seconds:.1f} s ({config.images / seconds:.0f} films/s)")
