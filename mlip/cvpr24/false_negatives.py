"""False negatives: other patients with the same findings, whom plain InfoNCE pushes away.

The seed's Figure 1 says that MLIP tells them from true negatives and brings them closer; it does not say how. Here the
overlap of the findings linked in two reports softens the contrast's targets; ``benchmarks/analyses/false_negatives.py`` measures the effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mlip.losses.contrastive import cosine_logits


def observations_of(findings: Sequence[str | None]) -> Tensor:
    """Number of the observation that each entity stands for, -1 for anatomy and the like: names [N] -> int64 [N]."""
    names = {name: k for k, name in enumerate(dict.fromkeys(f for f in findings if f))}
    return torch.tensor([names[f] if f else -1 for f in findings], dtype=torch.int64)


def finding_sets(entities: Tensor, observations: Tensor) -> Tensor:
    """[B, n] linked entities with -1 = padding, [N] of :func:`observations_of` -> [B, K] 0/1, K observations.

    Only findings count: that two reports both name the hilum makes their patients no false negatives of each other.
    """
    of = observations[entities.clamp_min(0)].masked_fill(entities < 0, -1)
    sets = torch.zeros(len(entities), int(observations.max()) + 2, device=entities.device)
    sets.scatter_(1, of + 1, 1.0)  # column 0 collects the padding and what is no finding
    return sets[:, 1:]


def overlap_of(sets: Tensor, empty: float) -> Tensor:
    """Jaccard index of the reports' findings: [B, K] -> [B, B] in [0, 1], diagonal 1.

    Parameters
    ----------
    empty : what two reports without any finding have in common. 0 for the contrast's targets: that nothing was linked
        does not mean that nothing is there. 1 where they must not be taken for negatives of each other.
    """
    common = sets @ sets.T
    size = sets.sum(dim=1)
    union = size.unsqueeze(0) + size.unsqueeze(1) - common
    jaccard = torch.where(union > 0, common / union.clamp_min(1), torch.full_like(union, empty))
    return jaccard.fill_diagonal_(1.0)


def soft_targets(overlap: Tensor, weight: float) -> Tensor:
    """``(1 - weight) * identity + weight * overlap / row sum``: [B, B] -> [B, B], rows sum to 1."""
    shared = overlap / overlap.sum(dim=1, keepdim=True)
    return weight * shared + (1 - weight) * torch.eye(len(overlap), device=overlap.device)


def soft_info_nce(a: Tensor, b: Tensor, temperature: float, targets: Tensor) -> Tensor:
    """InfoNCE with the soft targets [B, B] in place of the identity (with it: :func:`mlip.losses.contrastive.info_nce`)."""
    return functional.cross_entropy(cosine_logits(a, b, temperature), targets)
