"""Semantic integrity estimation: how much of an image's meaning its visible patches keep, from a learnt weight phi.

Both forms are reconstructions. ``maco`` is the correlation weighting of MaCo, the sibling work of all authors
(SZUHvern/MaCo); ``share`` reads "integrity" literally, as the retained share of a distribution over patch positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip.losses.contrastive import diagonal_ce

MAX_SCALE = 100.0  # CLIP's bound on the logit scale; here it bounds integrity times scale


class SemanticIntegrity(nn.Module):
    """Learnt weight ``phi`` [P] over patch positions and the score sigma_i of what image i keeps.

    ``maco``: ``softplus(phi . m_i + b)``, ln 2 at the start. ``share``: ``sum_k m_ik softmax(phi)_k`` over its batch
    mean, 1 on average, so that phi can tell images apart but not act as a temperature.
    """

    def __init__(self, patches: int, form: str) -> None:
        super().__init__()
        self.form = form
        self.phi = nn.Parameter(torch.zeros(patches))
        self.bias = nn.Parameter(torch.zeros(1)) if form == "maco" else None

    def forward(self, visible: Tensor) -> Tensor:
        """[B, P] bool, True = visible -> [B] positive scores."""
        m = visible.to(self.phi.dtype)
        if self.bias is not None:
            return functional.softplus(m @ self.phi + self.bias)
        share = m @ self.phi.softmax(dim=0)
        return share / share.mean()


def integrity_contrast(cosine: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
    """Masked contrastive loss weighted by semantic integrity, in MaCo's form.

    ``L_c = 1/4 [CE(sigma_i l_ij) + CE(sigma_i l_ji) + WCE(l_ij; sigma) + WCE(l_ji; sigma)]`` with ``l = scale * cos``.
    In the first two terms the score scales the logits of its row and so gets its gradient. In the weighted ones,
    ``WCE = sum_i w_i ce_i / sum_i w_i``, the weight carries no gradient: otherwise phi would lower the loss by giving
    no weight to the images that are hard to match.

    Parameters
    ----------
    cosine : [B, B], images in rows; scale : positive scalar (1 / temperature); sigma : [B].
    """
    weight = sigma.detach() / sigma.detach().sum()
    total = cosine.new_zeros(())
    for one_way in (cosine, cosine.T):
        scaled = one_way * (scale * sigma).clamp_max(MAX_SCALE).unsqueeze(1)
        plain = diagonal_ce(one_way * scale.clamp_max(MAX_SCALE), reduction="none")
        total = total + diagonal_ce(scaled) + (weight * plain).sum()
    return total / 4
