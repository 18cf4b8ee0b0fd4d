"""``method.yaml``: what a method folder says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlip.errors import UserError
from mlip.study import ImageEncoderConfig, describe
from mlip.yaml_files import read_yaml

EncoderKind = Literal["cnn", "vit"]
Source = Literal["paper", "official-code", "sibling-code", "seed", "ours"]
Range = tuple[float, float]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ParameterSpec(_Closed):
    """A hyper-parameter with where its value comes from."""

    value: Any
    source: Source
    where: str = ""
    later: bool = Field(
        False,
        description="added when results were there: its value is what was done before, and counts only where it is another",
    )


class ComponentSpec(_Closed):
    """A part of the objective that an ablation can switch off."""

    default: bool = True
    doc: str
    source: Source


class EncoderSupport(_Closed):
    supports: list[EncoderKind] = Field(min_length=1)
    prefers: EncoderKind
    input_size: int | None = Field(
        default=None, gt=0, description="side of the images that the method needs, for its check"
    )


class StartSpec(_Closed):
    """The image encoder that a recipe's rows start from, with where that comes from."""

    name: str = Field(description="timm's name, its weights' tag after the dot")
    pretrained: str | None = "hub"
    input_size: int | None = Field(default=None, gt=0)
    source: Source
    where: str = Field(min_length=1)

    @property
    def config(self) -> ImageEncoderConfig:
        return ImageEncoderConfig(name=self.name, pretrained=self.pretrained, input_size=self.input_size)


class AugmentSpec(_Closed):
    """What is done to training films instead of the project's own augmentation (``mlip/data/augmentation.py``), in this order.

    Null leaves a step out. Ranges are those that torchvision's transforms draw from. The films come out at the side of the
    study's ``crop_size``.
    """

    resized_crop: Range | None = Field(
        default=None,
        description="share of the film's area that is cut out and enlarged; null: a random part of `crop_size`",
    )
    flip: float = Field(default=0.0, ge=0, le=1, description="probability of a horizontal flip")
    rotate: float = Field(default=0.0, ge=0, description="largest angle in degrees")
    shift: float = Field(default=0.0, ge=0, le=1, description="largest translation as a share of the side")
    scale: Range | None = Field(default=None, description="factors of size")
    brightness: Range | None = Field(default=None, description="factors")
    contrast: Range | None = Field(default=None, description="factors")
    blur: Range | None = Field(default=None, description="standard deviations of a Gaussian in pixels")


class Recipe(_Closed):
    """Optimiser's numbers of one tier. ``epochs`` and ``batch_size`` are used where the study leaves them null."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps")
    clip: float | None = 1.0
    optimizer: Literal["adam", "adamw"] = Field("adamw", description="adam: weight decay as an L2 term of the gradient")
    decay: Literal["no_norm_bias", "all"] = Field("no_norm_bias", description="which parameters decay")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = Field(
        default=None,
        description="on a GPU, where the study's `pretrain.precision` is auto; null: bf16-mixed where it can",
    )
    augment: AugmentSpec | None = Field(default=None, description="null: the project's own, the same for all methods")
    encoders: dict[EncoderKind, StartSpec] = Field(
        default_factory=dict, description="what rows start from in a study whose `encoders.start` is recipe"
    )
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
    agreement: Literal["losses", "losses and recipe"] | None = Field(
        default=None,
        description="of `official-agreement`: what agrees with the official code. losses: the loss terms and their gradients "
        "(tests/parity); the training's departures stand in the README",
    )
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

    @property
    def standing(self) -> str:
        """The status as pages show it, with what it speaks of."""
        return f"{self.status} ({self.agreement})" if self.agreement else self.status


def read_manifest(folder: Path) -> Manifest:
    """Read and validate ``folder/method.yaml``; its id must equal the folder's name."""
    path = folder / "method.yaml"
    try:
        manifest = Manifest.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(describe(error), where=path, fix="see docs/adding-a-baseline.md") from None
    if manifest.id != folder.name:
        raise UserError(f"id is {manifest.id!r} but the folder is {folder.name!r}", where=path, fix="make them equal")
    if (manifest.status == "official-agreement") != (manifest.agreement is not None):
        raise UserError(
            f"status is {manifest.status} and agreement is {manifest.agreement}",
            where=path,
            fix="official-agreement says of what, `agreement: losses` or `losses and recipe`; no other status has one",
        )
    if manifest.trained and not manifest.seeded:
        raise UserError("a trained method depends on its seed", where=path, fix="leave `seeded` out")
    if manifest.start == "weights" and (manifest.trained or manifest.seeded):
        raise UserError("a checkpoint is neither trained nor seeded here", where=path, fix="set both to false")
    return manifest
