"""``method.yaml``: what a method folder says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlip.errors import UserError
from mlip.study import describe
from mlip.yaml_files import read_yaml

EncoderKind = Literal["cnn", "vit"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ParameterSpec(_Closed):
    """A hyper-parameter with where its value comes from."""

    value: Any
    source: Literal["paper", "official-code", "sibling-code", "seed", "ours"]
    where: str = ""


class ComponentSpec(_Closed):
    """A part of the objective that an ablation can switch off."""

    default: bool = True
    doc: str
    source: Literal["paper", "official-code", "sibling-code", "seed", "ours"]


class EncoderSupport(_Closed):
    supports: list[EncoderKind] = Field(min_length=1)
    prefers: EncoderKind
    input_size: int | None = Field(
        default=None, gt=0, description="side of the images that the method needs, for its check"
    )


class Recipe(_Closed):
    """Optimiser's numbers of one tier. ``epochs`` and ``batch_size`` are used where the study leaves them null."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps")
    clip: float | None = 1.0
    params: dict[str, Any] = Field(default_factory=dict, description="overrides of `parameters` at this tier")
    provenance: dict[str, str] = Field(default_factory=dict, description="where each number comes from")


class Manifest(_Closed):
    """``method.yaml``: what a method folder says about itself."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str
    paper: str
    citation: str
    year: int
    status: Literal["official-agreement", "reconstruction", "control", "external"]
    encoders: EncoderSupport
    capabilities: list[Literal["zero_shot", "retrieval", "local_alignment", "knowledge", "maps"]] = Field(
        default_factory=list
    )
    trained: bool = True
    start: Literal["study", "random", "pretrained", "weights"] = Field(
        "study",
        description="weights of the image encoder before pre-training: the study's; random whatever the study says, with "
        "batch norms calibrated on training films where the method is not trained; the study's, which must then be "
        "pretrained; or `weights`: nothing but a checkpoint, which each row must name",
    )
    seeded: bool = Field(True, description="whether the pre-training seed moves anything; false: evaluated once")
    feature_maps: bool = Field(
        True,
        description="whether detection and segmentation can build on the method's image network; false where that is its own "
        "and has no maps, see `Method.feature_maps`",
    )
    looked_up: bool = Field(
        False,
        description="whether features are not computed from films but looked up by image_id in the row's file; the text side is "
        "there only where the row names `weights.texts`",
    )
    requires: list[str] = Field(
        default_factory=list, description="packages that it needs beside the project's, as pip takes them: `monai>=1.3`"
    )
    released: list[tuple[str, str | None]] = Field(
        default_factory=list,
        description="how others name the tensors of this method: regular expressions at the beginning of their names, and what stands "
        "there in ours; null: left out. The first that fits decides",
    )
    components: dict[str, ComponentSpec] = Field(default_factory=dict)
    parameters: dict[str, ParameterSpec] = Field(default_factory=dict)
    recipes: dict[str, Recipe] = Field(default_factory=dict)


def read_manifest(folder: Path) -> Manifest:
    """Read and validate ``folder/method.yaml``; its id must equal the folder's name."""
    path = folder / "method.yaml"
    try:
        manifest = Manifest.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(describe(error), where=path, fix="see docs/adding-a-baseline.md") from None
    if manifest.id != folder.name:
        raise UserError(f"id is {manifest.id!r} but the folder is {folder.name!r}", where=path, fix="make them equal")
    if manifest.trained and not manifest.seeded:
        raise UserError("a trained method depends on its seed", where=path, fix="leave `seeded` out")
    if manifest.start == "weights" and (manifest.trained or manifest.seeded):
        raise UserError("a checkpoint is neither trained nor seeded here", where=path, fix="set both to false")
    return manifest
