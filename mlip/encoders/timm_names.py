"""Names of image models: timm's own, and two of ours."""

from __future__ import annotations

import difflib

import timm
from timm.models import get_pretrained_cfg

from mlip.errors import UserError

OWN = ("resnet", "vit")  # names of ours, whose sizes are given in `args`


def require_known(name: str, pretrained: str | None, where: str) -> None:
    """Raise UserError unless the name is one of timm's or ours, and has weights on the hub where those are asked for."""
    if ":" in name:  # `hf-hub:owner/model`, which only the hub can tell about
        return
    if name not in OWN and not timm.is_model(name):
        near = difflib.get_close_matches(name, [*OWN, *timm.list_models()], n=3)
        problem = f"timm knows no model {name!r}"
        raise UserError(
            problem, where=where, fix=f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
        )
    if pretrained == "hub":
        try:
            has_weights = name not in OWN and bool(getattr(get_pretrained_cfg(name), "has_weights", False))
        except RuntimeError as error:  # an unknown tag after the dot
            raise UserError(
                f"timm refuses {name!r} ({error})", where=where, fix="correct the tag after the dot"
            ) from None
        if not has_weights:
            raise UserError(
                f"there are no weights of {name!r} on timm's hub",
                where=f"{where}.pretrained",
                fix="give a weights file, or leave `pretrained` out to start from random weights",
            )


def is_fixed_size(name: str) -> bool:
    """Whether a timm model is built for images of one size (transformers, CLIP's ResNets), by timm's own record."""
    if name in OWN:
        return name == "vit"
    if ":" in name:
        return False
    cfg = get_pretrained_cfg(name)
    return bool(cfg is not None and cfg.fixed_input_size)
