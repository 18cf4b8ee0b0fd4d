"""The divergence encoder: feature-level augmentation that makes a similar yet distinct counterpart of a feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip.cvpr24.distinct import band_hinge, distribution_divergence


class DivergenceEncoder(nn.Module):
    """``x~ = norm(LayerNorm(x + MLP([x, z])))`` with ``z ~ N(0, I)`` (our reconstruction; the seed names the aim only).

    Parameters
    ----------
    dim : width of the feature.
    expansion : hidden width of the MLP in units of ``dim``.
    noise : width of z; every forward pass draws it anew, so a feature has many counterparts.
    """

    def __init__(self, dim: int, expansion: int, noise: int) -> None:
        super().__init__()
        self.noise = noise
        self.mlp = nn.Sequential(nn.Linear(dim + noise, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """[B, dim] -> [B, dim] of unit length; the noise comes from ``generator`` (on the CPU)."""
        z = torch.randn(len(x), self.noise, generator=generator).to(x)
        return functional.normalize(self.norm(x + self.mlp(torch.cat([x, z], dim=-1))), dim=-1)


def divergence_loss(x: Tensor, generated: Tensor, form: str, low: float, high: float, slope: float) -> Tensor:
    """The loss called ``form``: ``band`` (see :func:`band_hinge`) or ``kl`` (:func:`distribution_divergence`)."""
    if form == "band":
        return band_hinge(x, generated, low, high)
    return distribution_divergence(x, generated, high, slope)
