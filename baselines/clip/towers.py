"""The two sides of a dual encoder, behind the shapes of this project: CLIP of transformers, and models of open_clip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip.encoders.image import STRIDES, ImageOutput, normalised
from mlip.errors import UserError
from mlip.study import GreyConfig

Tokenise = Callable[[Sequence[str]], dict[str, Tensor]]


class ImageTower(nn.Module, ABC):
    """The image side, in place of an :class:`mlip.encoders.image.ImageEncoder`: the same names say the same.

    Parameters
    ----------
    model : the network; what is exported as the row's encoder.
    project : what leads from its pooled feature to the joint space, where that is a module of its own.
    size : side in pixels of the images that it sees; films are resized to it (bilinear).
    grey : the grey values that it was trained on.
    """

    def __init__(self, model: nn.Module, project: nn.Module, size: int, grey: GreyConfig, key: str) -> None:
        super().__init__()
        self.model, self.project, self.input_size, self.grey, self.where = model, project, size, grey, key

    kind: Literal["cnn", "vit"] = "vit"

    @property
    def has_stages(self) -> bool:
        return self.kind == "cnn"

    def resize(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.input_size:
            images = functional.interpolate(images, size=self.input_size, mode="bilinear", align_corners=False)
        return normalised(images, self.grey)

    def map_side(self, image_size: int) -> int:
        return self.input_size

    def both(self, images: Tensor) -> tuple[ImageOutput, Tensor]:
        """[B, 3, H, W] films -> pooled and grid, and the embedding [B, E] in the joint space, not normalised."""
        return self.see(self.resize(images))

    def forward(self, images: Tensor) -> ImageOutput:
        return self.both(images)[0]

    @abstractmethod
    def see(self, images: Tensor) -> tuple[ImageOutput, Tensor]:
        """:meth:`both` of images as the network takes them."""

    def stages(self, images: Tensor) -> list[Tensor]:
        """Maps [B, C, h, w] of strides 4, 8, 16, 32."""
        return self._stages(self.resize(images))

    def require_stages(self) -> None:
        """Raise UserError where a CNN lacks one of the four."""
        with torch.no_grad():
            self.stages(next(self.parameters()).new_zeros(1, 3, self.input_size, self.input_size))

    def _stages(self, images: Tensor) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for one in self._maps(images):
            if one.ndim == 4 and images.shape[-1] % one.shape[-1] == 0:
                found[images.shape[-1] // one.shape[-1]] = one  # the last of each stride
        if lacking := [str(s) for s in STRIDES if s not in found]:
            raise UserError(
                f"its network has no map of stride {', '.join(lacking)} on images of {self.input_size} pixels",
                where=self.where,
                fix="leave detection and segmentation out for this row, or take another network",
            )
        return [found[s] for s in STRIDES]

    def _maps(self, images: Tensor) -> list[Tensor]:
        """The maps of all its stages; a network without stages has none."""
        return []


class TransformersTower(ImageTower):
    """``CLIPVisionModel``: class token and patches after the last norm, then the projection."""

    def see(self, images: Tensor) -> tuple[ImageOutput, Tensor]:
        out = self.model(pixel_values=images)
        model: Any = self.model
        patches = _as_grid(model.post_layernorm(out.last_hidden_state[:, 1:]))
        return ImageOutput(out.pooler_output, patches), self.project(out.pooler_output)


class VisionTransformerTower(ImageTower):
    """open_clip's own ViT, in the order of its ``forward``."""

    def see(self, images: Tensor) -> tuple[ImageOutput, Tensor]:
        model: Any = self.model
        pooled, tokens = model._pool(model.transformer(model._embeds(images)))
        return ImageOutput(pooled, _as_grid(tokens)), pooled if model.proj is None else pooled @ model.proj


class TimmTower(ImageTower):
    """open_clip's wrapper of a timm model: a ViT, or a network with stages."""

    def see(self, images: Tensor) -> tuple[ImageOutput, Tensor]:
        model: Any = self.model
        features = model.trunk.forward_features(images)
        joint = model.head(model.trunk.forward_head(features))
        pooled = model.trunk.forward_head(features, pre_logits=True)
        pooled = pooled if pooled.ndim == 2 else joint  # a pooling of open_clip's own, which projects too
        if self.kind == "vit":
            return ImageOutput(pooled, _as_grid(features[:, model.trunk.num_prefix_tokens :])), joint
        return ImageOutput(pooled, self._stages(images)[2].permute(0, 2, 3, 1)), joint

    def _maps(self, images: Tensor) -> list[Tensor]:
        model: Any = self.model
        maps: list[Tensor] = model.trunk.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
        return maps


class ResNetTower(ImageTower):
    """CLIP's ResNet, whose attention pooling ends in the joint space: pooled is that embedding before it is normalised."""

    def see(self, images: Tensor) -> tuple[ImageOutput, Tensor]:
        joint = self.model(images)
        return ImageOutput(joint, self._stages(images)[2].permute(0, 2, 3, 1)), joint

    def _maps(self, images: Tensor) -> list[Tensor]:
        model: Any = self.model
        maps: list[Tensor] = model.forward_intermediates(images, intermediates_only=True)["image_intermediates"]
        return maps


class TextTower(nn.Module):
    """The text side with its own tokenizer and text length: texts -> embeddings [B, E] in the joint space, not normalised."""

    def __init__(self, model: nn.Module, embed: Callable[[Any, dict[str, Tensor]], Tensor], tokenise: Tokenise) -> None:
        super().__init__()
        self.model, self._embed, self._tokenise = model, embed, tokenise

    def forward(self, texts: Sequence[str]) -> Tensor:
        device = next(self.parameters()).device
        return self._embed(self.model, {k: v.to(device) for k, v in self._tokenise(texts).items()})


def _as_grid(patches: Tensor) -> Tensor:
    """[B, P, D] in row-major order -> [B, h, h, D]."""
    side = round(patches.shape[1] ** 0.5)
    return patches.unflatten(1, (side, side))
