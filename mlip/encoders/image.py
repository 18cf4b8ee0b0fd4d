"""Image encoders: timm models behind one output shape.

``cnn``: pooled = global average of the last stage; grid = stage with stride 16 (as GLoRIA and MGCA take layer3).
``vit``: pooled = class token after the last norm; grid = patch tokens after the last norm; attention = last block.
Besides timm's names there are ``resnet`` and ``vit``, whose sizes are given in ``args``; those of ``vit`` may hold
``stem_channels``, a convolutional stem instead of the linear patch embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors.torch import load_file
from timm.layers import HybridEmbed
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn
from torch.nn import functional

from mlip.errors import UserError
from mlip.study import ImageEncoderConfig


@dataclass
class ImageOutput:
    pooled: Tensor  # [B, D]
    grid: Tensor  # [B, h, w, D']
    attention: Tensor | None = None  # [B, heads, 1+P, 1+P] of the last block, ViT only and only where asked for


class ImageEncoder(nn.Module):
    """A timm model with its pooled and local features.

    Parameters
    ----------
    config : which model, with which arguments.
    kind : ``cnn`` or ``vit``.
    image_size : side of the images in pixels; the model sees ``config.input_size`` (bilinear) where that is set.

    Raises
    ------
    UserError : the name is unknown to timm or does not fit the kind, or the weights file does not fit strictly.
    """

    def __init__(self, config: ImageEncoderConfig, kind: Literal["cnn", "vit"], image_size: int) -> None:
        super().__init__()
        self.kind, self.config = kind, config
        self.input_size = config.input_size or image_size
        # Channels-last convolutions are about half again as fast on CPUs, and faster on GPUs in half precision.
        model: Any = _timm_model(config, kind, self.input_size).to(memory_format=torch.channels_last)
        self.model = model
        if kind == "vit":
            self.dim = self.grid_dim = int(model.embed_dim)
            self.grid_size = int(model.patch_embed.grid_size[0])
            self.stride = self.input_size // self.grid_size
        else:
            self.dim = int(model.num_features)
            info = model.feature_info
            strides = [i["reduction"] for i in info]
            if 16 not in strides:
                raise UserError(f"{config.name} has no stage of stride 16", fix="use a ResNet-like timm model")
            self.grid_dim = int(info[strides.index(16)]["num_chs"])
            self.grid_size, self.stride = -(-self.input_size // 16), 16

    @property
    def patches(self) -> int:
        """Number of grid cells P."""
        return self.grid_size**2

    def resize(self, images: Tensor) -> Tensor:
        if images.shape[-1] == self.input_size:
            return images
        return functional.interpolate(images, size=self.input_size, mode="bilinear", align_corners=False)

    def forward(self, images: Tensor, need_attention: bool = False) -> ImageOutput:
        """[B, 3, H, W] -> pooled, grid and (ViT, on demand) the last block's attention."""
        images = self.resize(images).contiguous(memory_format=torch.channels_last)
        if self.kind == "cnn":
            grid, last = self.stages(images)[-2:]
            return ImageOutput(self.model.global_pool(last).flatten(1), grid.permute(0, 2, 3, 1))
        if need_attention:
            with _AttentionTap(self.model.blocks[-1].attn) as tap:
                tokens = self.model.forward_features(images)
            attention = tap.attention
        else:
            tokens, attention = self.model.forward_features(images), None
        patches = tokens[:, self.model.num_prefix_tokens :]
        return ImageOutput(tokens[:, 0], patches.unflatten(1, (self.grid_size, self.grid_size)), attention)

    def stages(self, images: Tensor) -> list[Tensor]:
        """CNN only: feature maps [B, C, H/s, W/s] of strides 4, 8, 16, 32, in that order."""
        model = self.model
        x = model.maxpool(model.act1(model.bn1(model.conv1(images))))
        maps = []
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            x = layer(x)
            maps.append(x)
        return maps


class _AttentionTap:
    """Reads softmax(QK^T / sqrt(d)) of a timm attention module during one forward pass.

    timm fuses attention and never materialises the matrix, so it is computed again from the module's own projections.
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


def _timm_model(config: ImageEncoderConfig, kind: str, size: int) -> nn.Module:
    args = dict(config.args)
    if config.name == "resnet":
        model: nn.Module = ResNet(BasicBlock, num_classes=0, **args)  # type: ignore[arg-type]
    elif config.name == "vit":
        if stem := args.pop("stem_channels", None):
            args["embed_layer"] = _conv_stem(stem, args.get("patch_size", 16), args.get("embed_dim", 768))
        model = VisionTransformer(img_size=size, num_classes=0, **args)
    else:
        if kind == "vit":
            args.setdefault("img_size", size)
        try:
            model = timm.create_model(config.name, pretrained=config.pretrained == "hub", num_classes=0, **args)
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"timm cannot build {config.name!r} ({error})", where="encoders", fix="see timm.list_models()"
            ) from None
    if isinstance(model, VisionTransformer) != (kind == "vit"):
        raise UserError(f"{config.name!r} is not a {kind}", where="encoders", fix="put it under the other kind")
    if config.pretrained and config.pretrained != "hub":
        _load_strict(model, Path(config.pretrained))
    return model


def _conv_stem(channels: list[int], patch_size: int, dim: int) -> Any:
    """Embedding by 3x3 convolutions of stride 2 and a last 1x1, as in Xiao et al., "Early Convolutions Help Transformers
    See Better" (NeurIPS 2021): from scratch on a few thousand films a ViT with linear patches hardly learns.

    A token then sees ``2^(n+1) - 1`` pixels a side: its patch and most of the one above and the one to the left.
    """
    if 2 ** len(channels) != patch_size:
        problem = f"stem_channels {channels} halve {len(channels)} times, patch_size is {patch_size}"
        raise UserError(problem, where="encoders.vit.args", fix="give log2(patch_size) channels")
    count = len(channels)
    stem = ConvStem(
        depth=count + 1, channels=(*channels, dim), kernel_size=(3,) * count + (1,), stride=(2,) * count + (1,)
    )

    def embed(img_size: int, embed_dim: int, **kwargs: Any) -> HybridEmbed:
        kwargs.pop("patch_size")  # the stem has done it
        return HybridEmbed(stem, img_size=img_size, embed_dim=embed_dim, proj=False, **kwargs)

    return embed


def _load_strict(model: nn.Module, path: Path) -> None:
    """Load weights; only the classifier, which the encoder does not have, may be left over."""
    if not path.is_file():
        raise UserError("there is no such weights file", where=path, fix="correct encoders.*.pretrained, or use `hub`")
    state = (
        load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    )
    if isinstance(state.get("model"), dict):
        state = state["model"]
    state = {k: v for k, v in state.items() if k.split(".")[0] not in ("fc", "head")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise UserError(
            f"does not fit: missing {missing[:3]}, unexpected {unexpected[:3]}",
            where=path,
            fix="use the weights of this very model",
        )
