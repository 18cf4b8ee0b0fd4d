"""Everything that moves a segmentation number."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from benchmarks.tasks.shared.dense.protocol import DenseProtocol


class SegmentationProtocol(DenseProtocol):
    """Keys of ``benchmarks/protocols/segmentation/*.yaml`` beside those of :class:`DenseProtocol`."""

    unet_channels: tuple[int, int, int, int] = Field(description="CNN: U-Net decoder, from stride 16 to stride 2")
    pup_channels: list[int] = Field(min_length=1, description="ViT: progressive upsampling, one doubling each")
    dice: Literal["one_minus", "minus_log"] = Field(description="form of the soft Dice term")
    focal_weight: float = Field(ge=0)
    focal_gamma: float = Field(ge=0)
    threshold: float | Literal["validation"] = Field(
        0.5,
        description="a pixel is predicted above this probability; validation: the bin edge with the best mean Dice over the "
        "validation films with the finding (those of `validation_images`)",
    )
    leaderboard: Literal["positives", "all"] = Field(
        description="positives: Dice over images with the finding comes first; all: with empty images scored 1 or 0"
    )
