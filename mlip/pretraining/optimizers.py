"""The optimiser that a recipe names, and which parameters it lets decay."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from mlip.manifest import Recipe

CLASSES = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def build_optimizer(method: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """``adamw`` decays the weights themselves; ``adam`` adds the decay to the gradient (L2), as torch's Adam does."""
    groups = decay_groups(method, recipe)
    return CLASSES[recipe.optimizer](groups, lr=recipe.lr, betas=recipe.betas, fused=True)  # type: ignore[operator]


def decay_groups(method: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """The parameters that are trained, by their weight decay.

    ``no_norm_bias``: none on biases, norms and other vectors, as is usual for AdamW; the decayed weights come first. Their
    order is that of the sum when gradients are clipped, and of a saved training state. ``all``: one group.
    """
    if recipe.decay == "all":
        return [{"params": [p for p in method.parameters() if p.requires_grad], "weight_decay": recipe.weight_decay}]
    return param_groups_weight_decay(method, recipe.weight_decay)[::-1]
