"""Balanced assignment to prototypes and swapped prediction (SwAV, as MGCA uses it).

The balance is over the batch that the function sees: with several processes the whole one (``pretrain.negatives: global``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def sinkhorn_codes(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignments of B samples to K prototypes that use all prototypes equally (Caron et al. 2020, eq. 3).

    Alternately scales ``exp(scores / epsilon)`` to equal prototype sums and equal sample sums. Computed on logarithms,
    which is the same scaling without overflow for small ``epsilon``.

    Parameters
    ----------
    scores : [B, K] cosines of samples and prototypes.

    Returns
    -------
    [B, K], rows sum to 1; never carries a gradient.
    """
    log_q = scores / epsilon
    count, prototypes = scores.shape
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(dim=0, keepdim=True) - math.log(prototypes)
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True) - math.log(count)
    return log_q.softmax(dim=1)


def swapped_prediction(
    z_a: Tensor,
    z_b: Tensor,
    prototypes: Tensor,
    epsilon: float = 0.05,
    iterations: int = 3,
    temperature: float = 0.2,
) -> Tensor:
    """Predict each view's codes from the other view: MGCA's cross-modal prototype alignment CPA.

    ``-1/2 mean_i sum_k [ q^b_ik log p^a_ik + q^a_ik log p^b_ik ]`` with ``p = softmax(z c / temperature)`` and ``q`` the
    Sinkhorn codes of the same scores (HKU-MedAI/MGCA; Caron et al. 2020, eq. 1).

    Parameters
    ----------
    z_a, z_b : [B, E], normalised here.
    prototypes : [K, E], normalised here (a gradient reaches the raw ones).
    """
    centres = functional.normalize(prototypes, dim=-1)
    scores_a, scores_b = (functional.normalize(z, dim=-1) @ centres.T for z in (z_a, z_b))
    codes_a, codes_b = (sinkhorn_codes(s, epsilon, iterations) for s in (scores_a, scores_b))
    loss_a = functional.cross_entropy(scores_a / temperature, codes_b)
    loss_b = functional.cross_entropy(scores_b / temperature, codes_a)
    return (loss_a + loss_b) / 2
