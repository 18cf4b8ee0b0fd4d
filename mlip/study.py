"""The typed study configuration: what one YAML under ``config/`` may say.

An unknown key, a wrong type or a missing value is reported with the file and the path of the key before anything runs.
``mlip schema`` prints the JSON schema that editors use; it is generated from these classes.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mlip.errors import UserError
from mlip.yaml_files import read_yaml


class Strict(BaseModel):
    """Base of all configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class TwinDatasetConfig(Strict):
    """One virtual hospital: how many films it writes and in which layout (its name under ``mlip/twin/writers``)."""

    writer: str
    images: int = Field(gt=0)
    hospital: str = "reference"


class TwinConfig(Strict):
    """The virtual-patient corpus (``mlip/twin``)."""

    anatomies: int = Field(40, gt=0, description="warped chests whose organ projections are computed once")
    size: int = Field(224, gt=0, description="side of the written films in pixels")
    datasets: dict[str, TwinDatasetConfig]


class DatasetConfig(Strict):
    """A data set of the study: which reader understands its folder, and where the folder is.

    Give either ``root`` (a folder in the data set's own layout) or ``twin`` (the name of a virtual hospital of this
    study, whose folder the study writes itself).
    """

    reader: str
    root: Path = Path()
    twin: str | None = None
    options: dict[str, Any] = Field(default_factory=dict, description="reader options, validated by the reader")
    split: str = Field("strict", description="split rule: strict, official, or a published lineage such as mgca-2022")
    max_corrupt: float = Field(0.0, ge=0, le=1, description="share of unreadable images that is tolerated")


class TextEncoderConfig(Strict):
    """A BERT: either built small from these sizes, or loaded from ``pretrained`` (a local folder or a hub name)."""

    pretrained: str | None = None
    layers: int = 2
    dim: int = 128
    heads: int = 4
    vocabulary: int = 2000
    max_tokens: int = 96
    dropout: float = Field(default=0.1, ge=0, lt=1, description="of a BERT built from sizes; 0.1 is BERT's own")


class StemConfig(Strict):
    """The first ``stages`` of a timm EfficientNet as the patch embedding of a ``vit`` of our own sizes."""

    name: str
    stages: int = Field(gt=0)
    scale: int = Field(1, gt=0, description="how much the film is enlarged before it")
    pretrained: str | None = Field(default=None, description="as that of an image encoder")


class ImageEncoderConfig(Strict):
    """A timm model: its name, or ``resnet`` / ``vit`` with ``args`` for a size of our own (without: ResNet-18, ViT-B/16)."""

    name: str
    args: dict[str, Any] = Field(default_factory=dict)
    pretrained: str | None = Field(
        default=None,
        description="a local weights file, `hub` for timm's own weights, or `packaged:<name>` for those that come with the "
        "environment (mlip/encoders/packaged.py)",
    )
    input_size: int | None = Field(
        default=None, description="images are resized to this before the encoder (GLoRIA, MGCA: 299)"
    )
    stem: StemConfig | None = Field(default=None, description="`vit` only: what embeds the patches, linear without it")
    pooled: Literal["classifier", "last_stage"] = Field(
        default="classifier",
        description="`cnn` only: the pooled feature is what timm gives the classifier, or the mean of the last stage, which of a "
        "ResNet is the same; an EfficientNet's layers between the two (a convolution to 1,280 channels) are then left out",
    )

    @property
    def weights(self) -> list[str | None]:
        """What ``pretrained`` says of the encoder and of its stem."""
        return [self.pretrained, *([self.stem.pretrained] if self.stem else [])]

    @property
    def has_weights(self) -> bool:
        """Whether it starts from weights that were trained on something."""
        return any(self.weights)

    def without_weights(self) -> ImageEncoderConfig:
        """The same encoder from random weights."""
        stem = self.stem and self.stem.model_copy(update={"pretrained": None})
        return self.model_copy(update={"pretrained": None, "stem": stem})


class EncodersConfig(Strict):
    cnn: ImageEncoderConfig
    vit: ImageEncoderConfig
    text: TextEncoderConfig
    start: Literal["study", "recipe"] = Field(
        "study",
        description="what rows start from: the encoders named here, or those that their method's recipe names "
        "(`recipes.<tier>.encoders` of method.yaml), where it names one",
    )

    def image(self, kind: Literal["cnn", "vit"]) -> ImageEncoderConfig:
        return self.cnn if kind == "cnn" else self.vit


class PretrainConfig(Strict):
    """Budget shared by all methods, so that no row is better for having trained longer.

    ``recipe`` names the entry under ``recipes`` in each ``method.yaml`` that gives the optimiser's numbers. With
    ``epochs`` or ``batch_size`` null, the recipe's own value is used (the papers' schedules).
    """

    datasets: list[str] = Field(description="may be empty where no row learns from films")
    recipe: str = "small"
    epochs: int | None = None
    batch_size: int | None = None
    steps: int | None = Field(default=None, gt=0, description="at most so many optimiser steps; null: the epochs'")
    seeds: list[int] = Field(default=[0], min_length=1)
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    on_code_change: Literal["rerun", "mark"] = Field(
        "rerun",
        description="what an edit of the code does to trainings already made: repeat them, or keep them and say in the "
        "tables by which code they were made",
    )
    checkpoint_seconds: float = Field(20.0, gt=0, description="how often the resumable training state is written")
    threads: int = Field(1, gt=0, description="cores per process of a training when no GPU is there")
    devices: int = Field(
        1, gt=0, description="GPUs per training, a process each, which share the batch; processes where no GPU is there"
    )
    negatives: Literal["global", "local"] = Field(
        "global",
        description="global: the losses see the whole batch, however many devices share it; local: each device its own pairs "
        "(MGCA's official training, 2 x 72)",
    )
    chunk: int | None = Field(
        None, gt=0, description="pairs per device whose activations are kept at once (GradCache); null: all"
    )
    activation_checkpointing: bool = Field(
        False, description="compute the encoders' activations again in the backward pass instead of keeping them"
    )


class KnowledgeConfig(Strict):
    source: Literal["hpo", "umls"] = "hpo"
    root: Path | None = Field(default=None, description="folder of MRCONSO.RRF / MRREL.RRF for umls")
    dim: int = 64
    epochs: int = 100


class TaskConfig(Strict):
    """One transfer task: which protocols, on which data sets, at which label fractions and draws."""

    datasets: list[str] = Field(min_length=1)
    protocols: list[str] = Field(default=["strict"], min_length=1)
    only: dict[str, list[str]] = Field(
        default_factory=dict, description="by protocol: the data sets that it is used on, where these are not all"
    )
    fractions: list[int] = Field(default=[1, 10, 100], description="percent of labels, or shots per class for few_shot")
    draws: int = Field(1, gt=0)
    targets: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="by data set: what a protocol says of the data sets that it knows, for those that it does not",
    )
    budget: dict[str, Any] = Field(
        default_factory=dict,
        description="protocol keys overridden by this study, printed with the table; under a protocol's name those of that one alone",
    )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(protocol, data set) of every table, by protocol."""
        return [(p, d) for p in self.protocols for d in self.datasets if d in self.only.get(p, self.datasets)]

    @field_validator("budget", mode="before")
    @classmethod
    def _json_keys(cls, budget: Any) -> Any:
        """YAML reads the fraction in ``{iterations: {100: 10}}`` as a number, JSON as text: one study, one form."""
        return json.loads(json.dumps(budget, default=str))

    @model_validator(mode="after")
    def _own_budgets_are_keys(self) -> TaskConfig:
        for name in set(self.protocols) & set(self.budget):
            if not isinstance(self.budget[name], dict):
                raise ValueError(f"budget.{name} is a protocol's own budget: write {name}: {{key: value}}")
        return self

    def budget_of(self, protocol: str) -> dict[str, Any]:
        """The keys of a protocol that the study overrides: in all protocols of the task, and in this one alone."""
        shared = {key: value for key, value in self.budget.items() if key not in self.protocols}
        own: dict[str, Any] = self.budget.get(protocol, {}) if protocol in self.protocols else {}
        return shared | own


class GreyConfig(Strict):
    """Mean and standard deviation of each channel, of grey values between 0 and 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @field_validator("std")
    @classmethod
    def _divides(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError("a standard deviation must be above 0")
        return std


NORMALISATIONS = {
    "half": GreyConfig(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),  # what every row of a study sees
    "imagenet": GreyConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "clip": GreyConfig(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
}


class WeightsConfig(Strict):
    """A checkpoint that others trained, and how its network saw films (docs/own-weights.md)."""

    file: Path | None = None
    folder: Path | None = None
    texts: Path | None = Field(default=None, description="`embeddings` only: the vectors of texts")
    prefix: str = Field(
        default="", description="what stands before the encoder's names in the file; other tensors are left out"
    )
    heads: list[str] = Field(default_factory=list, description="beginnings of names that are no part of the encoder")
    architecture: str | None = Field(default=None, description="timm's name of the image encoder; null: the study's")
    input_size: int | None = Field(default=None, gt=0, description="side in pixels of the films that it sees")
    normalise: Literal["half", "imagenet", "clip"] | GreyConfig | None = Field(
        default=None, description="grey values that it was trained on; null: what its method says"
    )
    trained_on: list[str] = Field(default_factory=list, description="data sets of its training, for the audit")

    @model_validator(mode="after")
    def _one_place(self) -> WeightsConfig:
        if (self.file is None) == (self.folder is None):
            raise ValueError("give one of `file` and `folder`")
        return self

    @property
    def path(self) -> Path:
        """The file or folder."""
        path = self.file if self.file is not None else self.folder
        assert path is not None
        return path.expanduser()

    @property
    def grey(self) -> GreyConfig | None:
        """The normalisation in numbers."""
        return NORMALISATIONS[self.normalise] if isinstance(self.normalise, str) else self.normalise


class VariantConfig(Strict):
    """A further row: a method folder with another encoder, other switches or parameters, or with weights trained elsewhere."""

    method: str
    encoder: Literal["cnn", "vit"] | None = None
    start_of: str | None = Field(
        default=None, description="the row whose image encoder this one starts from: a control of another row's start"
    )
    weights: WeightsConfig | None = None
    components: dict[str, bool] = Field(default_factory=dict)
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)  # added to `pretrain.seeds`: the same training again, with other randomness
    pairs: int = Field(
        default=100,
        gt=0,
        le=100,
        description="percent of the training patients whose pairs are seen, in as many steps as with all",
    )
    title: str | None = None


class MethodsConfig(Strict):
    """Rows of the study: every folder found (minus ``exclude``, or only ``include``), and the variants."""

    include: list[str] | None = None
    exclude: list[str] = Field(default_factory=list)
    folders: list[Path] = Field(
        default_factory=list, description="method folders outside the checkout, or their parents"
    )
    variants: dict[str, VariantConfig] = Field(default_factory=dict)


Analysis = Literal["maps", "false_negatives", "parts"]


class StatisticsConfig(Strict):
    bootstrap: int = Field(default=1000, gt=0)
    level: float = Field(default=0.95, gt=0, lt=1)


class Study(Strict):
    """One study: data, methods, transfer tasks, tables."""

    study: str = Field(pattern=r"^[a-z0-9_-]+$")
    title: str
    data_note: str = Field(description="printed first in every table: what kind of data the numbers come from")
    seed: int = 2024
    work: Path = Path("work")
    results: Path = Path("results")
    data_root: Path | None = Field(default=None, description="folder that relative `datasets.*.root` are under")
    image_size: int = Field(224, gt=0, description="side of the stored images in pixels")
    crop_size: int | None = Field(
        default=None,
        gt=0,
        description="side of the part of a stored film that is encoded: the centre, in training a random part; null: all of it",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    twin: TwinConfig | None = None
    datasets: dict[str, DatasetConfig]
    encoders: EncodersConfig
    knowledge: KnowledgeConfig = Field(default_factory=KnowledgeConfig)
    pretrain: PretrainConfig
    methods: MethodsConfig = Field(default_factory=MethodsConfig)
    tasks: dict[str, TaskConfig]
    published: bool = Field(
        False, description="compare with published values: the data sets are the real ones that papers report on"
    )
    analyses: list[Analysis] = Field(
        default=["maps"], description="what is looked at in the trained rows, see docs/tables.md"
    )
    statistics: StatisticsConfig = Field(default_factory=StatisticsConfig)

    @property
    def input_side(self) -> int:
        """Side in pixels of the films that encoders are given, before any ``input_size`` of their own."""
        return self.crop_size or self.image_size

    @property
    def note(self) -> str:
        """The first line of everything that is printed: what kind of data the numbers come from."""
        return " ".join(self.data_note.split())

    @model_validator(mode="after")
    def _twin_roots(self) -> Study:
        for name, dataset in self.datasets.items():
            if dataset.twin is None:
                if dataset.root == Path():
                    raise ValueError(f"datasets.{name} has neither `root` nor `twin`")
                # The resolved study is read again by every job: applying the root twice must change nothing.
                if self.data_root is not None and not dataset.root.is_relative_to(self.data_root):
                    dataset.root = self.data_root / dataset.root
                continue
            if self.twin is None or dataset.twin not in self.twin.datasets:
                raise ValueError(f"datasets.{name}.twin names {dataset.twin!r}, which twin.datasets does not define")
            dataset.root = self.work / self.study / "raw" / dataset.twin
        return self

    @model_validator(mode="after")
    def _crop_fits(self) -> Study:
        if self.crop_size and self.crop_size > self.image_size:
            raise ValueError(f"crop_size {self.crop_size} is more than image_size {self.image_size}")
        return self

    @model_validator(mode="after")
    def _names_are_plain(self) -> Study:
        """They become names of files, and words of commands."""
        hospitals = self.twin.datasets if self.twin else {}
        for where, names in (
            ("datasets", self.datasets),
            ("twin.datasets", hospitals),
            ("methods.variants", self.methods.variants),
        ):
            for name in names:
                if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                    raise ValueError(f"{where} has the name {name!r}: letters, digits, `_`, `.` and `-` only")
        return self

    @model_validator(mode="after")
    def _references_exist(self) -> Study:
        known = set(self.datasets)
        used = [("pretrain.datasets", d) for d in self.pretrain.datasets]
        used += [(f"tasks.{t}.datasets", d) for t, c in self.tasks.items() for d in c.datasets]
        for where, name in used:
            if name not in known:
                raise ValueError(
                    f"{where} names the data set {name!r}, which `datasets` does not define ({sorted(known)})"
                )
        for task, config in self.tasks.items():
            if stray := sorted(set(config.targets) - set(config.datasets)):
                raise ValueError(f"tasks.{task}.targets names {stray[0]!r}, which tasks.{task}.datasets does not")
            if stray := sorted(set(config.only) - set(config.protocols)):
                raise ValueError(f"tasks.{task}.only names {stray[0]!r}, which tasks.{task}.protocols does not")
            for protocol, names in config.only.items():
                if stray := sorted(set(names) - set(config.datasets)):
                    raise ValueError(
                        f"tasks.{task}.only.{protocol} names {stray[0]!r}, which tasks.{task}.datasets does not"
                    )
            if unused := sorted(set(config.datasets) - {dataset for _, dataset in config.pairs}):
                raise ValueError(f"tasks.{task}.only leaves {unused[0]!r} without a protocol")
        return self


def load_study(path: str | Path) -> Study:
    """Read and validate a study file (YAML, or the JSON that a run resolved).

    Raises
    ------
    UserError : the file is missing, is not YAML, or holds an unknown key or a wrong value.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("there is no such study file", where=path, fix="name one of config/*.yaml")
    return parse_study(read_yaml(path), where=path)


def parse_study(raw: Any, *, where: str | Path) -> Study:
    """Validate a study given as a dictionary; ``where`` is named in the error message.

    Keys are put in alphabetical order, so that a run, its jobs and a single command see one and the same study.
    """
    if not isinstance(raw, dict):
        raise UserError("holds no keys", where=where, fix="see config/twin.yaml for an example")
    try:
        return Study.model_validate(_in_order(raw))
    except ValidationError as error:
        raise UserError(describe(error), where=where, fix="see docs/study.md for the keys") from None


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value, key=str)}
    return [_in_order(item) for item in value] if isinstance(value, list) else value


def describe(error: ValidationError) -> str:
    """All problems of a validation in one line: `key.path: message; ...`."""
    parts = []
    for item in error.errors(include_url=False):
        key = ".".join(str(p) for p in item["loc"]) or "study"
        known = " (unknown key)" if item["type"] == "extra_forbidden" else ""
        parts.append(f"{key}: {item['msg']}{known}")
    return "; ".join(parts)


def write_study(study: Study, path: Path) -> None:
    """Write the resolved study as JSON; in one step, since jobs may be reading."""
    text = json.dumps(study.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
