"""Which timm model an encoder is: built by name or from our own sizes, and refused where it does not fit its kind."""

from __future__ import annotations

from typing import Any, Literal

import timm
from timm.layers import Attention
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mlip.encoders.stems import embed_layer, stem_of
from mlip.encoders.timm_names import is_fixed_size, require_known
from mlip.encoders.weights import load_pretrained
from mlip.errors import UserError
from mlip.study import ImageEncoderConfig


def timm_model(
    config: ImageEncoderConfig, kind: Literal["cnn", "vit"], size: int, hub: bool = True, where: str = ""
) -> nn.Module:
    """The model without its classifier, with the weights that the configuration names; with ``pooled: last_stage`` without
    anything after its last stage.

    Parameters
    ----------
    size : side in pixels of the images that it will see.
    hub : whether ``pretrained: hub`` downloads; False builds the model as it is.
    where : the key of the configuration, for errors; ``encoders.<kind>`` where not given.

    Raises
    ------
    UserError : timm does not know the name or refuses the arguments, the model does not fit its kind or the image size,
        or the weights file does not fit strictly.
    """
    where = where or f"encoders.{kind}"
    args = dict(config.args)
    require_known(config.name, config.pretrained, where)
    if config.pooled == "last_stage" and kind == "vit":
        raise UserError("a vit has no stages to pool", where=f"{where}.pooled", fix="leave it out")
    if config.stem and config.name != "vit":
        raise UserError(f"a stem does not fit {config.name!r}", where=f"{where}.stem", fix="name: vit")
    try:
        if config.name == "resnet":
            args.setdefault("layers", [2, 2, 2, 2])  # ResNet-18
            args.setdefault("zero_init_last", False)  # a short training hardly opens branches that start switched off
            model: nn.Module = ResNet(BasicBlock, num_classes=0, **args)  # type: ignore[arg-type]
        elif config.name == "vit":
            model = _own_vit(config, args, size, hub)
        else:
            if is_fixed_size(config.name):
                args.setdefault("img_size", size)
            pretrained = hub and config.pretrained == "hub"
            model = timm.create_model(config.name, pretrained=pretrained, num_classes=0, **args)
    except UserError:
        raise
    except Exception as error:  # timm's constructors raise anything, from AssertionError to KeyError
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"timm cannot build {config.name!r} ({reason})",
            where=where,
            fix="see timm.list_models() and the model's args",
        ) from None
    (_require_vit if kind == "vit" else _require_cnn)(model, config.name, size, where)
    left_out = _end_with_stages(model) if config.pooled == "last_stage" else set()
    load_pretrained(model, config.name, config.pretrained, f"{where}.pretrained", left_out)
    return model


def _end_with_stages(model: Any) -> set[str]:
    """Take off what stands between the last stage and the classifier; the names of the tensors that go with it."""
    before = set(model.state_dict())
    model.prune_intermediate_layers([len(model.feature_info) - 1], prune_norm=True, prune_head=True)
    return before - set(model.state_dict())


def _own_vit(config: ImageEncoderConfig, args: dict[str, Any], size: int, hub: bool) -> VisionTransformer:
    if config.stem is None:
        return VisionTransformer(img_size=size, num_classes=0, **args)
    stem = stem_of(config.stem, args.get("patch_size", 16), hub)
    weights = {name: value.clone() for name, value in stem.state_dict().items()}
    model = VisionTransformer(img_size=size, num_classes=0, embed_layer=embed_layer(stem), **args)
    stem.load_state_dict(weights)  # timm's initialisation of a ViT goes over the stem's convolutions too
    return model


def _require_vit(model: nn.Module, name: str, size: int, where: str) -> None:
    if not isinstance(model, VisionTransformer):
        raise UserError(
            f"{name!r} is not a vit: timm builds a {type(model).__name__}",
            where=where,
            fix="put it under encoders.cnn if it has stages, else name a plain vision transformer",
        )
    if not model.has_class_token or isinstance(model.norm, nn.Identity):
        raise UserError(f"{name!r} has no class token after a last norm", where=where, fix="choose a ViT that has one")
    if not isinstance(getattr(model.blocks[-1], "attn", None), Attention):
        raise UserError(
            f"the blocks of {name!r} have no plain self-attention", where=where, fix="choose a plain vision transformer"
        )
    patch: Any = model.patch_embed.patch_size
    sides = set(patch) if isinstance(patch, tuple) else {patch}
    if len(sides) > 1 or size % next(iter(sides)):
        raise UserError(
            f"images of {size} pixels are no multiple of the patch size {'x'.join(map(str, sorted(sides)))}",
            where=where,
            fix="change image_size, input_size or the model",
        )


def _require_cnn(model: nn.Module, name: str, size: int, where: str) -> None:
    fix = "name a timm model with stages of stride 4, 8, 16 and 32"
    if isinstance(model, VisionTransformer):
        raise UserError(
            f"{name!r} is not a cnn", where=where, fix="put it under encoders.vit; a row of its own: `encoder: vit`"
        )
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "forward_head"):
        raise UserError(f"timm gives no intermediate features of {name!r}", where=where, fix=fix)
    reductions = {int(stage["reduction"]) for stage in model.feature_info}  # type: ignore[union-attr]
    if len(reductions) < 2:
        raise UserError(f"{name!r} is not a cnn: it has no stages of growing stride", where=where, fix=fix)
    if 16 not in reductions:
        raise UserError(f"{name!r} has no stage of stride 16", where=where, fix=fix)
