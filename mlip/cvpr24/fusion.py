"""Bilinear fusion of two vectors by a Tucker-decomposed tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TuckerFusion(nn.Module):
    """``T(x, k) = ((G x_1 W_x x) x_2 W_k k) x_3 W_o``: every pair of factors of x and k interacts through the core G.

    The Tucker form of MUTAN (Ben-younes et al. 2017, eq. 4, without its rank constraint) and TuckER (Balazevic et al.
    2019, eq. 1).

    Parameters
    ----------
    dim_x, dim_k, dim_out : widths of the two inputs and of the output.
    rank : width of each of the core's three modes; the core has ``rank ** 3`` weights.

    No map has a bias: unit-length inputs have entries of about ``dim ** -0.5``, and a usual bias would drown them and make
    the output the same for all inputs.
    """

    def __init__(self, dim_x: int, dim_k: int, dim_out: int, rank: int) -> None:
        super().__init__()
        self.factor_x = nn.Linear(dim_x, rank, bias=False)
        self.factor_k = nn.Linear(dim_k, rank, bias=False)
        # rank^-1: a sum of rank^2 products of unit-variance factors keeps unit variance.
        self.core = nn.Parameter(torch.randn(rank, rank, rank) / rank)
        self.out = nn.Linear(rank, dim_out, bias=False)

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """[B, dim_x], [B, dim_k] -> [B, dim_out]."""
        slices = torch.tensordot(self.factor_x(x), self.core, dims=1)  # [B, rank_k, rank_o]
        return self.out((self.factor_k(k).unsqueeze(1) @ slices).squeeze(1))
