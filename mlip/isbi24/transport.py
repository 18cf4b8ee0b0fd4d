"""Optimal transport between two sets of vectors: IPOT as UNITER uses it, and POT's batched solvers.

M, N are the padded set sizes; pad masks are bool, True = padding. Costs are unitless (cosine distance in [0, 2]).
"""

from __future__ import annotations

import ot
import torch
from torch import Tensor
from torch.nn import functional

PADDING_COST = 1e4  # far above any cosine distance, still finite in half precision


def cosine_cost(x: Tensor, y: Tensor) -> Tensor:
    """``1 - cos``: [B, M, D] and [B, N, D] -> [B, M, N]. Lengths below 1e-5 are clamped, as in UNITER."""
    return 1 - functional.normalize(x, dim=-1, eps=1e-5) @ functional.normalize(y, dim=-1, eps=1e-5).transpose(1, 2)


@torch.no_grad()
def ipot_plan(cost: Tensor, x_pad: Tensor, y_pad: Tensor, beta: float = 0.5, iterations: int = 50) -> Tensor:
    """Proximal-point transport plan with one inner Sinkhorn step (Xie et al. 2020, Algorithm 1; ChenRocks/UNITER).

    Marginals are uniform over the entries that are not padding. The order of the two scalings and the start are
    UNITER's, so its numbers are met at any iteration count; row marginals (over M) are exact, column marginals converge.
    Not POT's ``solve_batch(method="proximal")``: in 0.9.7 that subtracts the logarithm of the last plan where the proximal
    step adds it, and its cost oscillates far above the optimum instead of converging.

    Parameters
    ----------
    cost : [B, M, N]; x_pad : [B, M]; y_pad : [B, N].

    Returns
    -------
    [B, M, N] non-negative plan, zero at padding, without gradient.
    """
    x_valid, y_valid = (~x_pad).to(cost.dtype), (~y_pad).to(cost.dtype)
    x_weight = x_valid / x_valid.sum(dim=1, keepdim=True)  # [B, M]
    y_weight = y_valid / y_valid.sum(dim=1, keepdim=True)  # [B, N]
    plan = x_valid.unsqueeze(2) * y_valid.unsqueeze(1)
    kernel = torch.exp(-cost / beta) * plan
    x_scale = x_weight
    for _ in range(iterations):
        q = kernel * plan
        # A padded entry has weight 0 and an empty sum: the floor turns 0 / 0 into 0 and touches nothing else.
        y_scale = y_weight / _floored((x_scale.unsqueeze(1) @ q).squeeze(1))
        x_scale = x_weight / _floored((q @ y_scale.unsqueeze(2)).squeeze(2))
        plan = x_scale.unsqueeze(2) * q * y_scale.unsqueeze(1)
    return plan


def _floored(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(x.dtype).tiny)


def ipot_distance(
    x: Tensor, y: Tensor, x_pad: Tensor, y_pad: Tensor, beta: float = 0.5, iterations: int = 50
) -> tuple[Tensor, Tensor]:
    """Optimal-transport distance on cosine cost, ``<plan, cost>`` (UNITER's word-region alignment).

    Parameters
    ----------
    x : [B, M, D]; y : [B, N, D]; x_pad : [B, M]; y_pad : [B, N], each with at least one entry that is no padding.

    Returns
    -------
    distance : [B]; its gradient flows through the cost only.
    plan : [B, M, N], detached.
    """
    cost = cosine_cost(x, y)
    plan = ipot_plan(cost.detach(), x_pad, y_pad, beta, iterations)
    return (plan * cost).sum(dim=(1, 2)), plan


@torch.no_grad()
def entropic_plan(cost: Tensor, a: Tensor, b: Tensor, reg: float, iterations: int = 50) -> Tensor:
    """Entropy-regularised plan by POT's batched log-domain Sinkhorn (``ot.solve_batch``).

    Parameters
    ----------
    cost : [B, M, N]; a : [B, M] and b : [B, N], weights summing to 1 per problem, 0 at padding.
    reg : weight of the entropy, in units of the cost.

    Returns
    -------
    [B, M, N] plan, zero where a weight is zero, without gradient.
    """
    absent = (a == 0).unsqueeze(2) | (b == 0).unsqueeze(1)
    # Without the cost, padding would take part in the first scaling, where all potentials still are zero.
    cost = cost.masked_fill(absent, PADDING_COST)
    return ot.solve_batch(cost, reg, a, b, max_iter=iterations, tol=0.0, method="log_sinkhorn", grad="detach").plan
