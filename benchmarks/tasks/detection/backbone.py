"""A method's frozen encoder as a Detectron2 backbone, and the pyramid on it."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from benchmarks.tasks.detection.protocol import DetectionProtocol
from benchmarks.tasks.shared.dense.features import MethodMaps
from mlip.detectron2_compat import prepare
from mlip.encoders.image import STRIDES

prepare()

from detectron2.layers import Conv2d, ShapeSpec, get_norm  # noqa: E402
from detectron2.modeling import Backbone  # noqa: E402
from detectron2.modeling.backbone.fpn import FPN  # noqa: E402

Norm = str | Callable[[int], nn.Module]


class EncoderBackbone(Backbone):
    """Bottom-up network: the encoder's maps under the names ``s<stride>``.

    ``forward`` takes images [B, 3, S, S] or, to save computing them again, a list of maps made by the same encoder.
    """

    def __init__(self, maps: MethodMaps) -> None:
        super().__init__()
        self.maps = maps
        self.names = [f"s{stride}" for stride in maps.strides]

    def forward(self, x: Tensor | list[Tensor]) -> dict[str, Tensor]:
        values = self.maps(x) if isinstance(x, Tensor) else x
        return dict(zip(self.names, values, strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        shapes = zip(self.names, self.maps.channels, self.maps.strides, strict=True)
        return {name: ShapeSpec(channels=channels, stride=stride) for name, channels, stride in shapes}


class SimpleFeaturePyramid(Backbone):
    """ViTDet's pyramid from the one map of a plain ViT (Li et al., ECCV 2022, section 3).

    Detectron2 0.6 predates it, so it is written here on Detectron2's layers: each level rescales the patch grid by a
    power of 2 with transposed convolutions or max pooling, then a 1x1 and a 3x3 convolution with
    normalisation. Departure: the normalisation of ``norm`` in place of layer normalisation.

    Parameters
    ----------
    bottom_up : backbone with exactly one map.
    factors : by which the levels are finer than the grid, falling powers of 2; ViTDet's are 4, 2, 1, 1/2.
    narrow : bring the grid to ``out_channels`` first and keep that width, so that the pyramid has about as many weights as
        an FPN. ViTDet rescales at the grid's own width, halved by each transposed convolution.
    """

    def __init__(
        self, bottom_up: EncoderBackbone, out_channels: int, factors: list[float], norm: Norm, narrow: bool
    ) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        ((self.in_feature, shape),) = bottom_up.output_shape().items()
        channels = shape.channels
        self.first: nn.Module = nn.Identity()
        if narrow:
            self.first = Conv2d(channels, out_channels, kernel_size=1, norm=get_norm(norm, out_channels))
            channels = out_channels
        self.stages = nn.ModuleList()
        self._shapes: dict[str, ShapeSpec] = {}
        for factor in factors:
            self.stages.append(_level(channels, out_channels, factor, norm, 1 if narrow else 2))
            self._shapes[f"p{len(self._shapes)}"] = ShapeSpec(channels=out_channels, stride=shape.stride / factor)

    def forward(self, x: Tensor | list[Tensor]) -> dict[str, Tensor]:
        grid = self.first(self.bottom_up(x)[self.in_feature])
        return {name: stage(grid) for name, stage in zip(self._shapes, self.stages, strict=True)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes


def _level(channels: int, out_channels: int, factor: float, norm: Norm, shrink: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for step in range(int(math.log2(factor)) if factor > 1 else 0):
        if step:
            layers.append(nn.GELU())
        layers.append(nn.ConvTranspose2d(channels, channels // shrink, kernel_size=2, stride=2))
        channels //= shrink
    for _ in range(int(-math.log2(factor)) if factor < 1 else 0):
        # ceil_mode keeps a last odd row of patches; the anchors follow the map's size
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True))
    bias = norm == ""
    layers.append(Conv2d(channels, out_channels, kernel_size=1, bias=bias, norm=get_norm(norm, out_channels)))
    layers.append(
        Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=bias, norm=get_norm(norm, out_channels))
    )
    return nn.Sequential(*layers)


def build_pyramid(maps: MethodMaps, protocol: DetectionProtocol) -> FPN | SimpleFeaturePyramid:
    """FPN over the stages of a CNN, simple feature pyramid over the grid of a ViT."""
    bottom_up, norm = EncoderBackbone(maps), normalisation(protocol.norm)
    if maps.kind == "pyramid":
        fpn = FPN(bottom_up, bottom_up.names, protocol.channels, norm=norm)
        _drop_outputs(fpn, len(bottom_up.names) - len(protocol.anchor_sizes))
        return fpn
    as_fpn = protocol.grid_levels == "fpn"
    # The power of 2 nearest to the patch, so that the strides are about the FPN's; ViTDet's factors take the patch for 16.
    patch = 2.0 ** round(math.log2(maps.strides[0])) if as_fpn else 16.0
    factors = [patch / stride for stride in STRIDES[-protocol.levels :]][: len(protocol.anchor_sizes)]
    return SimpleFeaturePyramid(bottom_up, protocol.channels, factors, norm, narrow=as_fpn)


def _drop_outputs(fpn: FPN, count: int) -> None:
    """Take the output convolutions off the ``count`` coarsest levels: no head looks there, only the top-down path."""
    names = {module: name for name, module in fpn.named_children()}
    for level in range(count):
        nothing = nn.Identity()
        setattr(fpn, names[fpn.output_convs[level]], nothing)
        fpn.output_convs[level] = nothing


def normalisation(name: str) -> Norm:
    """``GN`` or "" as Detectron2's layers take it.

    Its own ``GN`` always makes 32 groups, which RetinaNetHead's probe with one channel no longer survives on today's torch.
    """
    return (lambda channels: nn.GroupNorm(math.gcd(32, channels), channels)) if name == "GN" else ""
