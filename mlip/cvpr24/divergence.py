"""The divergence encoder: feature-level augmentation that makes a similar yet distinct counterpart of a feature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip.cvpr24.distinct import band_hinge, distribution_divergence


class DivergenceEncoder(nn.Module):
    """``x~ = norm(x + r)`` with ``r = BatchNorm(MLP([x, z]))`` at length ``strength`` on average and ``z ~ N(0, I)``.

    Our reconstruction; the seed names the aim only. The batch norm (without weights) takes away what r has in common for
    all features: without it nine tenths of the "distinct" part were one constant vector, the same for every patient.

    Parameters
    ----------
    dim : width of the feature.
    expansion : hidden width of the MLP in units of ``dim``.
    noise : width of z; every forward pass draws it anew, so a feature has many counterparts.
    strength : length of r beside the feature's 1 at the start; it is learnt.
    """

    def __init__(self, dim: int, expansion: int, noise: int, strength: float) -> None:
        super().__init__()
        self.noise = noise
        self.mlp = nn.Sequential(nn.Linear(dim + noise, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))
        self.centre = nn.BatchNorm1d(dim, affine=False)
        self.log_strength = nn.Parameter(torch.tensor(math.log(strength)))

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """[B, dim] of unit length -> [B, dim] of unit length; the noise comes from ``generator`` (on the CPU)."""
        z = torch.randn(len(x), self.noise, generator=generator).to(x)
        # sqrt(dim): the entries of a unit vector are about dim ** -0.5, beside which the noise has unit entries.
        r = self.centre(self.mlp(torch.cat([x * x.shape[1] ** 0.5, z], dim=-1))) / x.shape[1] ** 0.5
        return functional.normalize(x + self.log_strength.exp() * r, dim=-1)


def distinct_part(x: Tensor, generated: Tensor) -> Tensor:
    """What of the counterpart is not x: the component of [B, E] orthogonal to [B, E] (unit length), at unit length."""
    return functional.normalize(generated - (generated * x).sum(dim=-1, keepdim=True) * x, dim=-1)


def divergence_loss(x: Tensor, generated: Tensor, form: str, low: float, high: float, slope: float) -> Tensor:
    """The loss called ``form``: ``band`` (see :func:`band_hinge`) or ``kl`` (:func:`distribution_divergence`)."""
    if form == "band":
        return band_hinge(x, generated, low, high)
    return distribution_divergence(x, generated, high, slope)
