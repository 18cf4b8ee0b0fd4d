"""Everything that moves a segmentation number."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from benchmarks.tasks.shared.dense.protocol import DenseProtocol


class SegmentationProtocol(DenseProtocol):
    """Keys of ``benchmarks/protocols/segmentation/*.yaml`` beside those of :class:`DenseProtocol`."""

    unet_channels: list[int] = Field(
        min_length=3, max_length=4, description="pyramid: U-Net decoder, from stride 16 to stride 4 (three) or 2 (four)"
    )
    unet_lateral: int | None = Field(
        None,
        gt=0,
        description="pyramid: width that a 1x1 convolution brings each map to before the decoder; null: none",
    )
    pup_channels: list[int] = Field(
        min_length=1, description="grid: progressive upsampling, widths of its convolutions"
    )
    pup_to_unet: bool = Field(
        False,
        description="grid: double only until the U-Net's finest stride is reached; false: after every convolution",
    )
    upernet: int | None = Field(
        None, gt=0, description="width of a UPerNet decoder in place of U-Net and progressive upsampling; null: these"
    )
    taps: list[int] | None = Field(
        None,
        min_length=4,
        max_length=4,
        description="upernet on a plain ViT: the blocks, as of twelve, whose patch grids become the maps of strides 4, 8, 16, 32",
    )
    auxiliary: float = Field(
        0.0, ge=0, description="upernet: weight of the loss of a small head on the map of stride 16"
    )
    dice: Literal["one_minus", "minus_log"] = Field(description="form of the soft Dice term")
    focal_weight: float = Field(ge=0)
    focal_gamma: float = Field(ge=0)
    reading: Literal["loss", "pixel_ap", "dice"] = Field(
        "loss",
        description="best_val: what is read on validation films; pixel_ap: of those with the finding; dice: at 0.5, mean over all, "
        "an empty mask scores 1 if nothing is predicted",
    )
    threshold: float | Literal["validation"] = Field(
        0.5,
        description="a pixel is predicted above this probability; validation: the bin edge with the best mean Dice over the "
        "validation films with the finding (those of `validation_images`)",
    )
    leaderboard: Literal["positives", "all"] = Field(
        description="positives: Dice over images with the finding comes first; all: with empty images scored 1 or 0"
    )
