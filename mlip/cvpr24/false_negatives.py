"""False negatives: other patients with the same findings, whom plain InfoNCE pushes away.

The seed's Figure 1 says that MLIP tells them from true negatives and brings them closer; it does not say how. Here the
overlap of linked knowledge entities softens the contrast's targets; ``benchmarks/analyses/false_negatives.py`` measures the effect.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mlip.losses.contrastive import cosine_logits


def knowledge_overlap(entities: Tensor) -> Tensor:
    """Jaccard index of the reports' entity sets: [B, n] with -1 = padding -> [B, B] in [0, 1], diagonal 1.

    A report without linked entities overlaps with no other: that nothing was linked does not mean that nothing is there.
    """
    count = int(entities.max()) + 1 if entities.numel() else 0
    sets = torch.zeros(len(entities), max(count, 1) + 1, device=entities.device)
    sets.scatter_(1, entities.clamp_min(-1) + 1, 1.0)  # column 0 collects the padding
    sets = sets[:, 1:]
    common = sets @ sets.T
    size = sets.sum(dim=1)
    union = size.unsqueeze(0) + size.unsqueeze(1) - common
    return (common / union.clamp_min(1)).fill_diagonal_(1.0)


def soft_targets(overlap: Tensor, weight: float) -> Tensor:
    """``(1 - weight) * identity + weight * overlap / row sum``: [B, B] -> [B, B], rows sum to 1."""
    shared = overlap / overlap.sum(dim=1, keepdim=True)
    return weight * shared + (1 - weight) * torch.eye(len(overlap), device=overlap.device)


def soft_info_nce(a: Tensor, b: Tensor, temperature: float, targets: Tensor) -> Tensor:
    """InfoNCE with the soft targets [B, B] in place of the identity (with it: :func:`mlip.losses.contrastive.info_nce`)."""
    return functional.cross_entropy(cosine_logits(a, b, temperature), targets)
