"""Plans of optimal transport between two sets: IPOT as UNITER uses it, and POT's batched solver.

M patches, N sentences (padded); pad masks are bool, True = padding. Costs are unitless (cosine distance in [0, 2]).
"""

from __future__ import annotations

import ot
import torch
from torch import Tensor

PADDING_COST = 1e4  # far above any cosine distance, still finite in half precision


@torch.no_grad()
def ipot_plan(cost: Tensor, y_pad: Tensor, beta: float = 0.5, iterations: int = 50) -> Tensor:
    """Proximal-point transport plan with one inner Sinkhorn step (Xie et al. 2020, Algorithm 1; ChenRocks/UNITER).

    Marginals are uniform, over N where it is no padding (patches, M, are never padded). The order of the two scalings and the start are
    UNITER's, so its numbers are met at any iteration count; row marginals (over M) are exact, column marginals converge.
    Not POT's ``solve_batch(method="proximal")``: in 0.9.7 that subtracts the logarithm of the last plan where the proximal
    step adds it, and its cost oscillates far above the optimum instead of converging.

    Parameters
    ----------
    cost : [B, M, N]; y_pad : [B, N].

    Returns
    -------
    [B, M, N] non-negative plan, zero at padding, without gradient.
    """
    y_valid = (~y_pad).to(cost.dtype)
    x_weight = cost.new_full(cost.shape[:2], 1 / cost.shape[1])  # [B, M]
    y_weight = y_valid / y_valid.sum(dim=1, keepdim=True)  # [B, N]
    plan = y_valid.unsqueeze(1).expand_as(cost)
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
