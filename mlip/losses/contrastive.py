"""Global (one vector per image, one per report) contrastive losses.

All embeddings are [B, E] float tensors whose row i of one side matches row i of the other; every other row of the batch
is a negative. Losses are scalars in nats.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def cosine_logits(a: Tensor, b: Tensor, temperature: float | Tensor) -> Tensor:
    """``cos(a_i, b_j) / temperature``: [B, E] and [B', E] -> [B, B']."""
    return functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).T / temperature


def diagonal_ce(logits: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Cross-entropy of the rows of [B, B] logits against the diagonal: a mean over the batch, or [B] with ``none``."""
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction=reduction)


def symmetric_ce(logits: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`diagonal_ce` of the logits and of their transpose: with images in rows, (image-to-text, text-to-image)."""
    return diagonal_ce(logits), diagonal_ce(logits.T)


def info_nce(a: Tensor, b: Tensor, temperature: float | Tensor, normalise: bool = True) -> Tensor:
    """One-directional InfoNCE ``-mean_i log softmax_j(a_i . b_j / temperature)_i`` (van den Oord et al. 2018, eq. 4).

    Parameters
    ----------
    a, b : [B, E]; rows of ``a`` are the anchors, rows of ``b`` their positives and negatives.
    temperature : a number or a scalar tensor (a learnt one gets its gradient).
    normalise : make the dot product a cosine; pass False for embeddings already of unit length.
    """
    logits = cosine_logits(a, b, temperature) if normalise else a @ b.T / temperature
    return diagonal_ce(logits)


def convirt_loss(image: Tensor, text: Tensor, temperature: float = 0.1, weight: float = 0.75) -> Tensor:
    """ConVIRT (Zhang et al. 2022, eqs. 2-4): ``weight * l(image->text) + (1 - weight) * l(text->image)``."""
    image_to_text, text_to_image = symmetric_ce(cosine_logits(image, text, temperature))
    return weight * image_to_text + (1 - weight) * text_to_image


def global_losses(image: Tensor, text: Tensor, factor: float = 10.0) -> tuple[Tensor, Tensor]:
    """GLoRIA's global losses, (image-to-text, text-to-image), logits ``factor * cos`` (marshuang80/gloria)."""
    return symmetric_ce(cosine_logits(image, text, 1.0) * factor)


def instance_loss(image: Tensor, text: Tensor, temperature: float = 0.07) -> Tensor:
    """MGCA's instance-level term ITA: the sum, not the mean, of both directions (HKU-MedAI/MGCA)."""
    image_to_text, text_to_image = symmetric_ce(cosine_logits(image, text, temperature))
    return image_to_text + text_to_image
