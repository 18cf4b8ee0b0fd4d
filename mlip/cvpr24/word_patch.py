"""Alignment of words with patches over the pairs of a batch: how well each image's patches account for each report's words."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def word_patch_similarity(patches: Tensor, words: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """``s_ij = sum_k a_jk u_jk . c_ijk`` with ``c_ijk = norm(sum_p softmax_p(u_jk . x_ip / t) x_ip)`` for all i, j.

    Ours. MGCA's token-wise contrast, whose negatives are other words of the same report, is solved without looking at the
    image (measured: another patient's patches give the same loss); against other images' patches it cannot be.

    Parameters
    ----------
    patches : [B, P, E] of unit length; words : [B', W, E] of unit length, zero where padded.
    weights : [B', W] a, rows sum to 1, zero where padded.

    Returns
    -------
    [B, B'], images in rows, in [-1, 1].
    """
    reports, longest, _ = words.shape
    scores = torch.einsum("ipe,we->iwp", patches, words.flatten(0, 1))  # [B, B' W, P]
    attention = (scores / temperature).softmax(dim=2)
    # u . c = sum_p a_p (u . x_p) / |c|: the contexts are needed for their length alone.
    length = (attention @ patches).norm(dim=2).clamp_min(1e-6)
    cosine = (attention * scores).sum(dim=2) / length
    return (cosine.view(len(patches), reports, longest) * weights).sum(dim=2)
