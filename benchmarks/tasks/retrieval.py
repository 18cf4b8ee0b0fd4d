"""Retrieval between images and reports of the test part, in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from benchmarks.tasks.shared.features import BATCH, encode_images
from benchmarks.tasks.shared.task import EvalJob, MetricSpec, Protocol, Source, Task
from mlip.data.splits import part_rows, read_splits
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.log import logger
from mlip.paths import ROOT
from mlip.seeding import generator
from mlip.study import Study
from mlip.text.reports import parse_report

DIRECTIONS = ("image-to-text", "text-to-image")


class RetrievalProtocol(Protocol):
    """How large the pool of candidates is, and which data sets have reports."""

    studies: int | None = Field(None, gt=1, description="at most so many studies, drawn once per data set; null: all")
    recall_at: list[int] = Field(default=[10, 5, 1], min_length=1)
    datasets: list[str]


@dataclass
class Pool:
    """The candidates: one image per study, and the different texts of these studies."""

    images: np.ndarray  # uint8 [N, S, S], the whole store
    ids: np.ndarray  # [N] hashed identifiers of its films
    records: pd.DataFrame  # one row per study [M], `row` points into `images`
    texts: list[str]  # different report texts [T], T <= M
    text_of: np.ndarray  # [M] index into `texts`


def build_pool(job: EvalJob) -> Pool:
    """One image per test study that has a report: a frontal view (PA, then AP) before others, then the first stored.

    Raises
    ------
    UserError : fewer than two different reports are left.
    """
    store = open_store(job.paths.data(job.dataset))
    records = store.records.iloc[part_rows(read_splits(job.paths.splits(job.dataset)), "test")]
    texts = [parse_report(raw).text for raw in records["report"]]
    records = records.assign(text=texts, rank=records["view"].map({"PA": 0, "AP": 1}).fillna(2))
    with_text = records[records["text"].str.len() > 0]
    studies = with_text.sort_values(["rank", "row"], kind="stable").drop_duplicates("study_id").sort_values("row")
    if job.protocol.studies is not None and len(studies) > job.protocol.studies:
        chosen = generator(job.study.seed, "retrieval", job.dataset, "pool").choice(
            len(studies), job.protocol.studies, replace=False
        )
        studies = studies.iloc[np.sort(chosen)]
    text_of, unique = pd.factorize(studies["text"])
    if len(unique) < 2:
        raise UserError(
            f"{job.dataset} has {len(unique)} different reports among its {len(records)} test images, retrieval needs two",
            where=job.paths.data(job.dataset) / "records.parquet",
            fix="take a data set with reports",
        )
    logger.info(
        "%s: %d test images, %d studies, %d different reports", job.dataset, len(records), len(studies), len(unique)
    )
    return Pool(store.images, store.records["image_id"].to_numpy(), studies.drop(columns="text"), list(unique), text_of)


def ranks(scores: np.ndarray, text_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """0-based rank of the best correct candidate, for every image [M] and for every image's text [M].

    ``scores`` [M images, T texts]. Correct for an image is its own text; correct for a text are all images with that
    text. A wrong candidate with an equal score counts as ranked before, so that a method with one score for everything
    comes last and not first.
    """
    studies = np.arange(len(text_of))
    own = scores[studies, text_of]
    to_text = (scores >= own[:, None]).sum(axis=1) - 1
    to_image = np.empty(scores.shape[1], dtype=np.int64)
    for text in range(scores.shape[1]):
        correct = text_of == text
        to_image[text] = (scores[~correct, text] >= scores[correct, text].max()).sum()
    return to_text, to_image[text_of]


class Retrieval(Task):
    """Each test study queries the reports with its image, and the images with its report."""

    name: ClassVar[str] = "retrieval"
    title: ClassVar[str] = "Image-report retrieval"
    needs: ClassVar[Any] = "method"
    controls: ClassVar[tuple[str, ...]] = ("chance",)
    requires: ClassVar[tuple[str, ...]] = ("retrieval",)
    fraction_unit: ClassVar[str] = ""
    scored_later: ClassVar[tuple[str, ...]] = ("recall_at",)
    Protocol: ClassVar[type[Protocol]] = RetrievalProtocol

    def run(self, job: EvalJob) -> pd.DataFrame:
        """Rows ``image_id, patient_id, fraction (0), draw (0), label, rank, candidates, correct``: two per study.

        ``label`` is the direction; ``rank`` is 0-based, see :func:`ranks`; ``correct`` of the ``candidates`` are right. No report text is in the rows.

        Raises
        ------
        UserError : the checkpoint or the splits do not fit, or there are no reports.
        """
        import torch

        from mlip.pretraining.checkpoints import load_method

        pool = build_pool(job)
        assert job.entry is not None
        method = load_method(job.study, job.entry, job.seed).to(job.device)
        scores = np.empty((len(pool.records), len(pool.texts)), dtype=np.float64)
        starts = range(0, len(pool.texts), BATCH)
        with torch.inference_mode():
            texts = [method.encode_text(pool.texts[start : start + BATCH]) for start in starts]
            rows = pool.records["row"].to_numpy()
            title = f"retrieval {job.method}"
            for positions, image in encode_images(
                method, pool.images, rows, job.device, title, pool.ids, job.study.crop_size
            ):
                for start, text in zip(starts, texts, strict=True):
                    similarity = method.similarity(image, text).double().cpu().numpy()
                    scores[positions, start : start + similarity.shape[1]] = similarity
        return self._rows(pool, scores)

    def texts(self, job: EvalJob) -> list[str]:
        return build_pool(job).texts

    def run_control(self, job: EvalJob) -> pd.DataFrame:
        """``chance``: ranks from seeded random scores over the same pool."""
        pool = build_pool(job)
        rng = generator(job.study.seed, "retrieval", job.dataset, "chance")
        return self._rows(pool, rng.random((len(pool.records), len(pool.texts))))

    @staticmethod
    def _rows(pool: Pool, scores: np.ndarray) -> pd.DataFrame:
        of_text = np.bincount(pool.text_of)[pool.text_of]  # images with a study's text
        frames = [
            pd.DataFrame(
                {
                    "image_id": pool.records["image_id"].to_numpy(),
                    "patient_id": pool.records["patient_id"].to_numpy(),
                    "fraction": 0,
                    "draw": 0,
                    "label": direction,
                    "rank": rank,
                    "candidates": candidates,
                    "correct": correct,
                }
            )
            for direction, rank, candidates, correct in zip(
                DIRECTIONS,
                ranks(scores, pool.text_of),
                scores.shape[::-1],
                (np.ones_like(of_text), of_text),
                strict=True,
            )
        ]
        return pd.concat(frames, ignore_index=True)

    def metrics(self, protocol: RetrievalProtocol, source: Source) -> list[MetricSpec]:
        """Recall at k, over the queries of both directions."""
        return [MetricSpec("recall_at", f"Recall@{k}", {"k": k}) for k in protocol.recall_at]

    def check(self, protocol: RetrievalProtocol, source: Source, study: Study) -> None:
        listed = source.reader.reports if source.reader.own else source.key(protocol.datasets) is not None
        if not listed:
            if source.reader.own:
                raise UserError(
                    f"tasks.retrieval: the options of {source.name} name no reports",
                    where=f"study {study.study}",
                    fix=f"set datasets.{source.name}.options.text or text_file, or take it out of the task",
                )
            raise UserError(
                f"does not list {source.kind!r}, the reader of {source.name}, among those with reports",
                where=ROOT / "benchmarks" / "protocols" / self.name / f"{protocol.name}.yaml",
                fix=f"add it under `datasets`, or use data sets of one of {protocol.datasets}",
            )


TASK = Retrieval()
