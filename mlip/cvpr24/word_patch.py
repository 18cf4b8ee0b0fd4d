"""Alignment of words with patches over the pairs of a batch: how well each image's patches account for each report's words."""

from __future__ import annotations

from torch import Tensor


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
    scores = patches @ words.flatten(0, 1).T  # [B, P, B' W]
    attention = (scores / temperature).softmax(dim=1)
    # u . c = sum_p a_p (u . x_p) / |c| and |c|^2 = a' G a with the patches' Gram matrix: no context is ever formed.
    square = (attention * ((patches @ patches.transpose(1, 2)) @ attention)).sum(dim=1)
    cosine = (attention * scores).sum(dim=1) * square.clamp_min(1e-12).rsqrt()
    return (cosine.view(len(patches), reports, longest) * weights).sum(dim=2)
