"""Zero-shot classification: images against prompts, no label seen. Protocols fix the prompts and how they are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from benchmarks.tasks.shared.classification import ClassificationTask, Cohort, Target, check_target, load_cohort
from benchmarks.tasks.shared.features import encode_images
from benchmarks.tasks.shared.prompt_file import read_prompts
from benchmarks.tasks.shared.prompts import PROMPTS, Prompts, sample
from benchmarks.tasks.shared.task import EvalJob, MetricSpec, Protocol, Source
from mlip.data.splits import part_rows
from mlip.errors import UserError
from mlip.paths import ROOT
from mlip.study import Study


class ZeroShotTarget(Target):
    """A target whose labels may go under another name in the prompt set."""

    categories: dict[str, str] = Field(default_factory=dict, description="label -> finding of the prompt set")
    prompts: dict[str, Prompts] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,  # what says nothing is no part of a fingerprint
        description="by label, instead of the protocol's; in a study: a file of them",
    )

    @model_validator(mode="after")
    def _each_has_prompts(self) -> ZeroShotTarget:
        if self.prompts is not None and (lacking := [label for label in self.labels if label not in self.prompts]):
            raise ValueError(f"prompts has none for {lacking[0]!r}")
        return self


class ZeroShotProtocol(Protocol):
    """Prompts and score rule.

    ``similarity``: ``method`` asks the method's own ``similarity`` (global and local as it defines it), ``cosine`` the
    joint embeddings. ``pool`` makes one number of a finding's prompts: ``mean`` or ``max`` of their similarities, or
    ``embedding``: the mean text embedding is compared (only with ``cosine``; normalised first if ``normalise_mean``).
    ``negatives``: the score is presence minus absence, else presence alone. ``zscore``: scores of a finding are
    standardised over the test images before findings are compared.
    """

    prompts: Literal["radiology", "biovil", "chexzero", "maco", "gloria"]
    sample: int | None = Field(None, gt=0)
    sample_seed: int = 0
    similarity: Literal["method", "cosine"]
    pool: Literal["mean", "max", "embedding"]
    normalise_mean: bool = False
    negatives: bool
    zscore: bool = False
    also: list[MetricSpec] = Field(default_factory=list, description="metrics of yes/no labels besides AUROC")
    datasets: dict[str, ZeroShotTarget]

    @model_validator(mode="after")
    def _fits(self) -> ZeroShotProtocol:
        if self.pool == "embedding" and self.similarity != "cosine":
            raise ValueError("pool `embedding` averages joint embeddings, so similarity must be `cosine`")
        if self.zscore and any(t.kind == "binary" for t in self.datasets.values()):
            raise ValueError("`zscore` compares findings over the image set, so every target must be multiclass")
        return self

    def prompts_for(self, target: ZeroShotTarget) -> dict[str, Prompts]:
        """Prompts of each label of a target.

        Raises
        ------
        UserError : the set has no prompts for a label.
        """
        if target.prompts is not None:
            return {label: target.prompts[label] for label in target.labels}
        prompts = PROMPTS[self.prompts]
        known = sample(prompts.findings, self.sample, self.sample_seed) if self.sample else {}
        chosen = {}
        for label in target.labels:
            finding = target.categories.get(label, label)
            found = known.get(finding) or prompts.of(finding)
            if found is None or (self.negatives and not found.negative):
                raise UserError(
                    f"the prompt set {self.prompts!r} has no prompts for {finding!r}",
                    where=ROOT / "benchmarks" / "protocols" / "zero_shot" / f"{self.name}.yaml",
                    fix="map the label under `categories`, or give prompts of your own (docs/own-data.md)",
                )
            chosen[label] = found
        return chosen


def pool(similarities: np.ndarray, groups: list[slice], how: str) -> np.ndarray:
    """[N, prompts] -> [N, groups]: the mean or the maximum over the prompts of each group."""
    reduce = np.max if how == "max" else np.mean
    return np.stack([reduce(similarities[:, g], axis=1) for g in groups], axis=1)


def probabilities(scores: np.ndarray, kind: str, zscore: bool) -> np.ndarray:
    """Scores [N, labels] -> p [N, labels]: a sigmoid each (yes/no), or a softmax over the labels (one class of several).

    Both grow with the score, so ranks and the largest class stay as the scores have them.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if zscore:
        deviation = scores.std(axis=0)
        scores = (scores - scores.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    if kind == "binary":
        return 0.5 * (1 + np.tanh(scores / 2))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class ZeroShot(ClassificationTask):
    """Test images scored by a method's joint image-text space."""

    name: ClassVar[str] = "zero_shot"
    title: ClassVar[str] = "Zero-shot classification"
    needs: ClassVar[Any] = "method"
    controls: ClassVar[tuple[str, ...]] = ("constant",)
    requires: ClassVar[tuple[str, ...]] = ("zero_shot",)
    fraction_unit: ClassVar[str] = ""
    scored_later: ClassVar[tuple[str, ...]] = ("also",)
    Protocol: ClassVar[type[Protocol]] = ZeroShotProtocol

    def with_target(self, protocol: ZeroShotProtocol, source: Source, target: dict[str, Any]) -> Any:
        if isinstance(file := target.get("prompts"), str):
            target = {**target, "prompts": read_prompts(Path(file), target.get("labels", []), protocol.negatives)}
        return super().with_target(protocol, source, target)

    def run(self, job: EvalJob) -> pd.DataFrame:
        """Rows ``image_id, patient_id, fraction (0), draw (0), label, y, p`` of the test part.

        Raises
        ------
        UserError : the checkpoint, the splits or the labels do not fit.
        """
        cohort = load_cohort(job)
        return self._rows(cohort, self._scores(job, cohort), job.protocol.zscore)

    def _scores(self, job: EvalJob, cohort: Cohort) -> np.ndarray:
        """[test images, labels], in the order of the test part and of the target's labels."""
        import torch
        from torch.nn import functional

        from mlip.pretraining.checkpoints import load_method

        protocol: ZeroShotProtocol = job.protocol
        texts: list[str] = []
        groups: list[slice] = []  # presence of every label, then absence of every label
        sides = ("positive", "negative") if protocol.negatives else ("positive",)
        prompts = protocol.prompts_for(job.source.of(protocol.datasets))
        for side in sides:
            for label in cohort.target.labels:
                these = getattr(prompts[label], side)
                groups.append(slice(len(texts), len(texts) + len(these)))
                texts += these
        assert job.entry is not None
        method = load_method(job.study, job.entry, job.seed).to(job.device)
        test = part_rows(cohort.splits, "test")
        pooled = np.empty((len(test), len(groups)))
        with torch.inference_mode():
            text = method.encode_text(texts)
            joint = functional.normalize(text.joint, dim=-1)
            means = torch.stack([joint[g].mean(dim=0) for g in groups])
            if protocol.normalise_mean:
                means = functional.normalize(means, dim=-1)
            for positions, image in encode_images(
                method,
                cohort.store.images,
                test,
                job.device,
                f"zero-shot {job.method}",
                cohort.store.records["image_id"].to_numpy(),
                job.study.crop_size,
            ):
                unit = functional.normalize(image.joint, dim=-1)
                if protocol.pool == "embedding":
                    pooled[positions] = (unit @ means.T).double().cpu().numpy()
                else:
                    each = unit @ joint.T if protocol.similarity == "cosine" else method.similarity(image, text)
                    pooled[positions] = pool(each.double().cpu().numpy(), groups, protocol.pool)
        labels = len(cohort.target.labels)
        return pooled[:, :labels] - pooled[:, labels:] if protocol.negatives else pooled

    @staticmethod
    def _rows(cohort: Cohort, scores: np.ndarray, zscore: bool) -> pd.DataFrame:
        test, frames = part_rows(cohort.splits, "test"), []
        p = probabilities(scores, cohort.target.kind, zscore)
        for number, problem in enumerate(cohort.target.problems):
            use = ~np.isnan(cohort.y[problem][test])
            shares = p if cohort.target.kind == "multiclass" else np.stack([1 - p[:, number], p[:, number]], axis=1)
            frames.append(cohort.rows(problem, test[use], shares[use], 0, 0))
        return pd.concat(frames, ignore_index=True)

    def texts(self, job: EvalJob) -> list[str]:
        prompts = job.protocol.prompts_for(job.source.of(job.protocol.datasets)).values()
        sides = ("positive", "negative") if job.protocol.negatives else ("positive",)
        return [text for p in prompts for side in sides for text in getattr(p, side)]

    def run_control(self, job: EvalJob) -> pd.DataFrame:
        """``constant``: the same score for every image and class."""
        cohort = load_cohort(job)
        shape = (len(part_rows(cohort.splits, "test")), len(cohort.target.labels))
        return self._rows(cohort, np.zeros(shape), zscore=False)

    def metrics(self, protocol: ZeroShotProtocol, source: Source) -> list[MetricSpec]:
        target = source.of(protocol.datasets)
        return [*target.metrics(), *(protocol.also if target.kind == "binary" else [])]

    def check(self, protocol: ZeroShotProtocol, source: Source, study: Study) -> None:
        check_target(self.name, protocol, source, study)
        protocol.prompts_for(source.of(protocol.datasets))


TASK = ZeroShot()
