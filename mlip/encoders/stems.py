"""A CNN's first stages as the patch embedding of a ViT, so that a small ViT need not learn to see from scratch."""

from __future__ import annotations

from typing import Any

import timm
from timm.layers import HybridEmbed
from torch import Tensor, nn
from torch.nn import functional

from mlip.encoders.timm_names import require_known
from mlip.encoders.weights import load_pretrained
from mlip.errors import UserError
from mlip.study import StemConfig

WHERE = "encoders.vit.stem"


class CnnStem(nn.Module):
    """The first stages of a timm EfficientNet on images enlarged ``scale`` times (bilinear)."""

    def __init__(self, model: Any, stages: int, scale: int) -> None:
        super().__init__()
        self.strides = [block_stride(model, k) for k in range(stages)]  # of each block's map, on the enlarged images
        self.conv_stem, self.bn1, self.blocks = model.conv_stem, model.bn1, model.blocks[:stages]
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, C, S/p, S/p], p the patch size of the ViT."""
        if self.scale > 1:
            images = functional.interpolate(images, scale_factor=self.scale, mode="bilinear", align_corners=False)
        out: Tensor = self.blocks(self.bn1(self.conv_stem(images)))
        return out


def stem_of(stem: StemConfig, patch_size: int, hub: bool) -> CnnStem:
    """The stem with its weights.

    Raises
    ------
    UserError : timm does not know the model, it is no EfficientNet, its stages do not end at the patch size, or its weights
        do not fit.
    """
    require_known(stem.name, stem.pretrained, WHERE)
    model: Any = timm.create_model(stem.name, pretrained=hub and stem.pretrained == "hub", num_classes=0)
    if not all(hasattr(model, part) for part in ("conv_stem", "bn1", "blocks")):
        raise UserError(f"{stem.name!r} is no EfficientNet", where=WHERE, fix="name one, e.g. tf_efficientnet_lite0")
    load_pretrained(model, stem.name, stem.pretrained, f"{WHERE}.pretrained")
    strides = [block_stride(model, k) for k in range(len(model.blocks))]
    stride = strides[stem.stages - 1] if stem.stages <= len(strides) else 0
    if stride != patch_size * stem.scale:
        raise UserError(
            f"{stem.stages} stages of {stem.name} have stride {stride}, patch_size {patch_size} on images enlarged "
            f"{stem.scale} times needs {patch_size * stem.scale}",
            where=WHERE,
            fix=f"change stages (their strides: {strides}), scale or args.patch_size",
        )
    return CnnStem(model, stem.stages, stem.scale)


def block_stride(model: Any, block: int) -> int:
    """Pixels between the cells of the map that ends stage ``block`` (from 0) of a timm EfficientNet."""
    stride = model.conv_stem.stride[0]
    for stage in model.blocks[: block + 1]:
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                stride *= module.stride[0]
    return int(stride)


def embed_layer(stem: CnnStem) -> Any:
    """``embed_layer`` of timm's VisionTransformer: the stem, then a 1x1 projection to the ViT's width."""

    def embed(img_size: int, embed_dim: int, **kwargs: Any) -> HybridEmbed:
        # HybridEmbed counts patches on the stem's map: one cell is one patch.
        return HybridEmbed(stem, img_size=img_size, embed_dim=embed_dim, **{**kwargs, "patch_size": 1})

    return embed
