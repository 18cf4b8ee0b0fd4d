"""Everything that moves a detection number."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from benchmarks.tasks.shared.dense.protocol import DenseProtocol


class DetectionProtocol(DenseProtocol):
    """Keys of ``benchmarks/protocols/detection/*.yaml`` beside those of :class:`DenseProtocol`.

    Lengths are shares of the image side, so that a protocol serves any resolution.
    """

    unlabelled_if_empty: dict[str, bool] = Field(
        description="by reader: an image without boxes is unlabelled (left out), or a true negative (kept)"
    )
    levels: int = Field(ge=1, le=4, description="levels that the pyramid is made of, the coarsest of stride 32")
    grid_levels: Literal["vitdet", "fpn"] = Field(
        "vitdet",
        description="a grid's levels: ViTDet's, by factors of the patch; or with the strides and the size of the FPN",
    )
    channels: int = Field(gt=0, multiple_of=8, description="channels of every pyramid level")
    head_convs: int = Field(ge=1, description="3x3 convolutions before the two output layers")
    norm: Literal["", "GN"] = "GN"
    anchor_sizes: list[float] = Field(
        min_length=1,
        description="as a share of the image side, one for each level that boxes are looked for on: the finest so many of "
        "`levels`",
    )
    anchor_octaves: list[float] = Field(min_length=1, description="factors on each size")
    anchor_ratios: list[float] = Field(min_length=1, description="height / width")
    match_ious: tuple[float, float] = (0.4, 0.5)
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_loss: Literal["smooth_l1", "giou"] = "giou"
    score_threshold: float = Field(ge=0, lt=1)
    nms_iou: float = Field(gt=0, le=1)
    max_detections: int = Field(gt=0)
    ious: list[float] = Field(
        min_length=1,
        description="IoU thresholds of mAP, the first being reported alone too; bit k of `matched` is ious[k]",
    )
    skip_undetected: bool = Field(False, description="MGCA's metric: an image without found boxes does not count")
    skip_negative: bool = Field(False, description="MGCA's metric: an image without true boxes does not count")
    prior_boxes: int = Field(gt=0, description="boxes per category that the prior-box control places on every image")

    @model_validator(mode="after")
    def _one_size_a_level(self) -> DetectionProtocol:
        if len(self.anchor_sizes) > self.levels:
            raise ValueError(f"anchor_sizes has more entries than the {self.levels} levels")
        if any(not 0 < iou <= 1 for iou in self.ious):
            raise ValueError("ious must lie in (0, 1]")
        return self
