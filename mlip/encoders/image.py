"""Image encoders: timm models behind one output shape, read through timm's ``feature_info`` and ``forward_intermediates``.

``cnn``: every model with stages (ResNet, DenseNet, EfficientNet, ConvNeXt, RegNet, CLIP's ResNet, and Swin, whose maps are
such a pyramid). pooled = what timm pools of the last stage before the classifier, or with ``pooled: last_stage`` the mean of
the last stage itself; grid = stage with stride 16 (as GLoRIA and MGCA take layer3).
``vit``: plain vision transformers. pooled = class token after the last norm; grid = patch tokens after the last norm;
attention = last block. With a ``stem`` of stride 16 its maps are a pyramid too: the stem's strides 4 and 8, the grid, and the
grid halved (as TransUNet's skip connections, Chen et al. 2021).
Besides timm's names there are ``resnet`` and ``vit``, whose sizes are given in ``args``; ``vit`` may have a ``stem``, the
first stages of a CNN instead of the linear patch embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from mlip.encoders.depthwise import use_small_maps
from mlip.encoders.timm_models import timm_model
from mlip.encoders.timm_names import is_fixed_size
from mlip.errors import UserError
from mlip.study import GreyConfig, ImageEncoderConfig

STRIDES = (4, 8, 16, 32)  # of the maps that detection and segmentation build on


@dataclass
class ImageOutput:
    pooled: Tensor  # [B, D]
    grid: Tensor  # [B, h, w, D']
    attention: Tensor | None = None  # [B, heads, 1+P, 1+P] of the last block, ViT only and only where asked for


class ImageEncoder(nn.Module):
    """A timm model with its pooled and local features.

    ``dim`` D and ``grid_dim`` D' are the widths of pooled and grid, ``grid_size`` the cells of the grid a side and
    ``stride`` the pixels between them.

    Parameters
    ----------
    config : which model, with which arguments.
    kind : ``cnn`` or ``vit``.
    image_size : side of the images in pixels; the model sees ``config.input_size`` (bilinear) where that is set.
    hub : whether ``pretrained: hub`` downloads timm's weights; False leaves the model as it is initialised.
    grey : of a checkpoint that others trained: the grey values that its network sees, and its stages see films at
        ``config.input_size`` too. None: those of the study, mean and deviation 0.5.
    where : the key of the configuration, for errors; ``encoders.<kind>`` where not given.

    Raises
    ------
    UserError : the name is unknown to timm or does not fit the kind or the image size, or the weights file does not fit
        strictly.
    """

    def __init__(
        self,
        config: ImageEncoderConfig,
        kind: Literal["cnn", "vit"],
        image_size: int,
        hub: bool = True,
        *,
        grey: GreyConfig | None = None,
        where: str = "",
    ) -> None:
        super().__init__()
        self.kind, self.config, self.grey = kind, config, grey
        self.where = where or f"encoders.{kind}"
        self.input_size = config.input_size or image_size
        # Channels-last convolutions are about half again as fast on CPUs, and faster on GPUs in half precision.
        model: Any = timm_model(config, kind, self.input_size, hub, self.where).to(memory_format=torch.channels_last)
        use_small_maps(model)
        self.model = model
        if kind == "vit":
            self.grid_size = int(model.patch_embed.grid_size[0])
            self.stride = self.input_size // self.grid_size
        else:
            reductions = [int(stage["reduction"]) for stage in model.feature_info]
            self._stage = {s: reductions.index(s) for s in STRIDES if s in reductions}
            self._fixed = is_fixed_size(config.name) or grey is not None
            self.stride = 16
        shapes = self._shapes()
        self.dim, self.grid_dim = int(shapes.pooled.shape[1]), int(shapes.grid.shape[3])
        self.grid_size = int(shapes.grid.shape[1])

    @property
    def patches(self) -> int:
        """Number of grid cells P."""
        return self.grid_size**2

    def resize(self, images: Tensor) -> Tensor:
        """Films of mean and deviation 0.5 at any size -> as the network sees them: at its size, in its grey values."""
        if images.shape[-1] != self.input_size:
            images = functional.interpolate(images, size=self.input_size, mode="bilinear", align_corners=False)
        return images if self.grey is None else normalised(images, self.grey)

    def forward(self, images: Tensor, need_attention: bool = False) -> ImageOutput:
        """[B, 3, H, W] -> pooled, grid and (ViT, on demand) the last block's attention."""
        images = self.resize(images).contiguous(memory_format=torch.channels_last)
        if self.kind == "cnn":
            pooled, grid = self._pooled_and_grid(images)
            return ImageOutput(pooled, grid.permute(0, 2, 3, 1))
        # Not through `forward_intermediates`, which would apply the last norm twice.
        if need_attention:
            with _AttentionTap(self.model.blocks[-1].attn) as tap:
                tokens = self.model.forward_features(images)
            attention = tap.attention
        else:
            tokens, attention = self.model.forward_features(images), None
        patches = tokens[:, self.model.num_prefix_tokens :]
        return ImageOutput(tokens[:, 0], patches.unflatten(1, (self.grid_size, self.grid_size)), attention)

    def _pooled_and_grid(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.pooled == "last_stage":
            indices = [self._stage[16], len(self.model.feature_info) - 1]
            maps = self.model.forward_intermediates(images, indices=indices, output_fmt="NCHW", intermediates_only=True)
            return maps[-1].mean(dim=(2, 3)), maps[0]
        last, (grid,) = self.model.forward_intermediates(images, indices=[self._stage[16]], output_fmt="NCHW")
        return self.model.forward_head(last, pre_logits=True), grid

    @property
    def has_stages(self) -> bool:
        """Whether detection and segmentation get a pyramid from it: a CNN, or a ViT on a CNN's stem of stride 16."""
        if self.kind == "cnn":
            return True
        strides = getattr(getattr(self.model.patch_embed, "backbone", None), "strides", [])
        return self.stride == 16 and {4, 8, 16} <= set(strides) and self.grid_size % 2 == 0

    def stages(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B, C, H/s, W/s] of strides 4, 8, 16, 32, in that order. A CNN takes the images as they are, whatever
        ``input_size`` says, except where it is built for one size.

        Raises
        ------
        UserError : the encoder is a ViT without such a stem, or the model lacks one of the four.
        """
        self.require_stages()
        if self.kind == "vit":
            stem = self.model.patch_embed.backbone
            with _OutputsTap(stem.blocks) as tap:
                grid = self(images).grid.permute(0, 3, 1, 2)
            level = dict(zip(stem.strides, tap.outputs, strict=True))  # the last map of each stride
            return [level[4], level[8], grid, functional.avg_pool2d(grid, 2)]
        images = self.resize(images) if self._fixed else images
        indices = list(self._stage.values())
        maps: list[Tensor] = self.model.forward_intermediates(
            images, indices=indices, output_fmt="NCHW", intermediates_only=True
        )
        return maps

    def require_stages(self) -> None:
        """Raise UserError where a ViT has no such stem, or a CNN lacks a stage of stride 4, 8, 16 or 32."""
        if not self.has_stages:
            raise UserError("this vit has no stages", where="encoders.vit", fix="use its grid")
        if self.kind == "vit":
            return
        lacking = [str(s) for s in STRIDES if s not in self._stage]
        if lacking:
            raise UserError(
                f"{self.config.name!r} has no stage of stride {', '.join(lacking)}; detection and segmentation need 4, 8, "
                "16 and 32",
                where=self.where,
                fix="choose a model that has the four, or leave these tasks out",
            )

    def map_side(self, image_size: int) -> int:
        """Side in pixels of the images that the maps for dense tasks lie on: a ViT (and a CNN built for one size) sees
        images of ``image_size`` at its own input size, any other CNN as they are."""
        return self.input_size if self.kind == "vit" or self._fixed else image_size

    @torch.no_grad()
    def _shapes(self) -> ImageOutput:
        """What the encoder gives for one image, on the device ``meta``: shapes without computing anything."""
        tensors = (*self.named_parameters(), *self.named_buffers())
        meta = {name: value.to("meta") for name, value in tensors}
        images = torch.empty(1, 3, self.input_size, self.input_size, device="meta")
        self.eval()
        try:
            out: ImageOutput = functional_call(self, meta, (images,))
        except Exception as error:  # timm's models raise anything, mostly AssertionError
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.config.name!r} takes no images of {self.input_size} pixels ({reason})",
                where=self.where,
                fix="change image_size, input_size or the model's args",
            ) from None
        finally:
            self.train()
        return out


def normalised(images: Tensor, grey: GreyConfig) -> Tensor:
    """[B, 3, H, W] of mean and deviation 0.5 -> of the given mean and deviation."""
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (grey.mean, grey.std))
    return (images * 0.5 + (0.5 - mean)) / std


class _OutputsTap:
    """Reads what each module of a sequence puts out during one forward pass."""

    def __init__(self, modules: Any) -> None:
        self.modules = modules
        self.outputs: list[Any] = []

    def __enter__(self) -> _OutputsTap:
        self.handles = [m.register_forward_hook(lambda _m, _x, out: self.outputs.append(out)) for m in self.modules]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


class _AttentionTap:
    """Reads softmax(QK^T / sqrt(d)) of a timm attention module during one forward pass.

    timm fuses attention and never materialises the matrix, so it is computed again from the module's own projections.
    ``timm.utils.AttentionExtract`` reads it only where fusing is switched off, which moves the block's output by rounding, and
    sets the whole model's training mode.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.attention: Tensor | None = None

    def __enter__(self) -> _AttentionTap:
        self.handle = self.module.register_forward_pre_hook(self._hook)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _hook(self, module: Any, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        b, n, _ = x.shape
        q, k, _ = module.qkv(x).reshape(b, n, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = module.q_norm(q), module.k_norm(k)
        self.attention = (q @ k.transpose(-2, -1) * module.scale).softmax(dim=-1)
