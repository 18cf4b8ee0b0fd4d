"""Alignment of words with image patches by MGCA's token-wise contrast."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def clipped_weights(attention: Tensor, low: float = 0.1, high: float = 0.9) -> Tensor:
    """Attention [B, N] -> weights [B, N] that sum to 1: non-zero entries clipped to their own quantiles (MGCA).

    Zeros (padding) stay zero and do not take part in the quantiles.
    """
    attention = _full(attention)
    present = attention != 0
    known = attention.masked_fill(~present, torch.nan)
    floor, ceiling = (known.nanquantile(q, dim=1, keepdim=True) for q in (low, high))
    clipped = torch.where(present, attention.clamp(floor, ceiling), 0)
    return clipped / clipped.sum(dim=1, keepdim=True)


def mgca_local_pairs(
    patches: Tensor,
    words: Tensor,
    word_pad_mask: Tensor,
    word_weights: Tensor,
    patch_weights: Tensor | None = None,
    temperature: float = 0.1,
    encoder: Literal["resnet", "vit"] = "resnet",
) -> tuple[Tensor, Tensor]:
    """MGCA's bidirectional token-wise alignment CTA (Wang et al. 2022, eqs. 4-7; HKU-MedAI/MGCA ``mgca_module.py``), in float32.

    Each word is contrasted, among the words of its own report, with the patches that it attends to; each patch with
    the words that it attends to. Both kinds are weighted by how much the encoder attends to the token.

    Parameters
    ----------
    patches : [B, P, E]; words : [B, W, E]; both normalised here.
    word_pad_mask : [B, W] bool, True = padding: never attended to, but a negative with weight 0, as in the code.
    word_weights : [B, W] sums to 1; patch_weights : [B, P] sums to 1, None = uniform.
    encoder : the official code normalises the attended words for ResNet and not for ViT.

    Returns
    -------
    The word loss and the patch loss [B] of each pair, each the mean of its two directions. CTA is the sum of their means.
    A pair's losses depend on the other pairs only by the number of words W to which all are padded.
    """
    with torch.autocast(patches.device.type, enabled=False):
        patches, words = (functional.normalize(_full(x), dim=-1) for x in (patches, words))
        affinity = words @ patches.transpose(1, 2) / temperature  # [B, W, P]
        seen = functional.normalize(affinity.softmax(dim=2) @ patches, dim=-1)
        loss_word = _token_contrast(words @ seen.transpose(1, 2) / temperature, word_weights)

        affinity = affinity.transpose(1, 2).masked_fill(word_pad_mask.unsqueeze(1), -torch.inf)
        read = affinity.softmax(dim=2) @ words  # [B, P, E]
        if encoder == "resnet":
            read = functional.normalize(read, dim=-1)
        if patch_weights is None:
            patch_weights = patches.new_full(patches.shape[:2], 1 / patches.shape[1])
        return loss_word, _token_contrast(patches @ read.transpose(1, 2) / temperature, patch_weights)


def token_attention(patches: Tensor, tokens: Tensor, pad: Tensor, temperature: float) -> Tensor:
    """Where the tokens of a text look, as the contrasts above attend: mean over tokens of ``softmax_p(token . x_p / t)``.

    Parameters
    ----------
    patches : [B, P, E]; tokens : [B, T, E]; both normalised here.
    pad : [B, T] bool, True = padding; a row that is all padding gives zeros.

    Returns
    -------
    [B, P]; a row sums to 1.
    """
    affinity = functional.normalize(tokens, dim=-1) @ functional.normalize(patches, dim=-1).transpose(1, 2)
    attention = (affinity / temperature).softmax(dim=2).masked_fill(pad.unsqueeze(2), 0)
    return attention.sum(dim=1) / (~pad).sum(dim=1, keepdim=True).clamp_min(1)


def _token_contrast(logits: Tensor, weights: Tensor) -> Tensor:
    """[B, N, N] logits, matches on the diagonal, weights [B, N] -> [B], half the weighted sum of both directions."""
    rows = functional.log_softmax(logits, dim=2).diagonal(dim1=1, dim2=2)
    columns = functional.log_softmax(logits, dim=1).diagonal(dim1=1, dim2=2)
    return -((rows + columns) / 2 * weights).sum(dim=1)


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
