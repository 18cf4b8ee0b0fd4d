"""False negatives: other patients with the same findings, whom plain InfoNCE pushes away.

The seed's Figure 1 says that MLIP tells them from true negatives and brings them closer; it does not say how. Here the
overlap of linked knowledge entities softens the contrast's targets, and :func:`false_negative_report` measures the effect.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor
from torch.nn import functional


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
    logits = functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).T / temperature
    return functional.cross_entropy(logits, targets)


def false_negative_report(
    similarity: Tensor,
    findings: Sequence[Set[str]],
    patients: Sequence[object] | None = None,
    temperature: float = 0.07,
    reference: Tensor | None = None,
) -> dict[str, float]:
    """How a method treats other patients with the very same findings. Evaluation only.

    Parameters
    ----------
    similarity : [N, N] cosines, image i with report j; row i's own report is j = i.
    findings : the set of findings of each pair; two pairs with equal, non-empty sets are false negatives of each other.
    patients : identity of each pair's patient; pairs of one patient are left out of both groups. None: all differ.
    temperature : of the softmax over reports that turns similarities into probability.
    reference : [N, N] cosines of a plain InfoNCE model on the same pairs, for the differences.

    Returns
    -------
    ``pairs`` (false-negative pairs), and with the suffix ``_reference`` for the reference and ``_gain`` for the
    difference: ``cos_positive``, ``cos_false_negative``, ``cos_negative`` (means), ``mass_false_negative`` (mean
    probability that a row with false negatives gives to them), ``lift`` (probability of one false negative over that of
    one true negative, geometric mean; 1 = not told apart). NaN where a group is empty.
    """
    n = len(similarity)
    who = list(patients) if patients is not None else list(range(n))
    same_set = torch.tensor([[bool(findings[i]) and findings[i] == findings[j] for j in range(n)] for i in range(n)])
    same_patient = torch.tensor([[who[i] == who[j] for j in range(n)] for i in range(n)])
    false_negative = same_set & ~same_patient
    negative = ~same_set & ~same_patient
    report = {"pairs": float(false_negative.sum())}
    measured = _measure(similarity, false_negative, negative, temperature)
    report |= measured
    if reference is not None:
        plain = _measure(reference, false_negative, negative, temperature)
        report |= {f"{key}_reference": value for key, value in plain.items()}
        report |= {f"{key}_gain": measured[key] - plain[key] for key in measured}
    return report


def _measure(similarity: Tensor, false_negative: Tensor, negative: Tensor, temperature: float) -> dict[str, float]:
    similarity = similarity.detach().cpu().double()
    mass = (similarity / temperature).softmax(dim=1)
    rows = false_negative.any(dim=1)
    in_group = (mass * false_negative).sum(dim=1)[rows]
    cos_false, cos_true = similarity[false_negative].mean(), similarity[negative].mean()
    return {
        "cos_positive": similarity.diagonal().mean().item(),
        "cos_false_negative": cos_false.item(),
        "cos_negative": cos_true.item(),
        "mass_false_negative": in_group.mean().item(),
        "lift": ((cos_false - cos_true) / temperature).exp().item(),
    }
