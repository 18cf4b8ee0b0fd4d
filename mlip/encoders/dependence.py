"""Whether what a method says about an image passes through the study's image encoder, or through a network of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mlip.contract import Method

ROUNDING = 1e-4  # share of its length by which a vector may move when the same is computed again


@torch.no_grad()
def uses_image_encoder(method: Method, images: Tensor) -> bool:
    """Whether ``encode_image(images).pooled`` moves when the weights of ``method.image_encoder`` do.

    Decided by perturbation, not by gradient: a method may well encode without one. Every weight gets normal noise of a tenth
    of its tensor's standard deviation plus 0.01, drawn apart from the global generators, and is put back bit by bit.

    Parameters
    ----------
    images : [B, 3, H, W] normalised, on the method's device; the method must be in eval mode.
    """
    before = method.encode_image(images).pooled.clone()
    weights = list(method.image_encoder.parameters())
    kept = [w.clone() for w in weights]
    draw = torch.Generator().manual_seed(0)
    try:
        for weight in weights:
            noise = torch.randn(weight.shape, generator=draw).to(weight)
            weight.add_(noise * (0.1 * weight.std(correction=0) + 0.01))
        moved = (method.encode_image(images).pooled - before).norm()
        return not bool(moved <= ROUNDING * before.norm())
    finally:
        for weight, value in zip(weights, kept, strict=True):
            weight.copy_(value)
