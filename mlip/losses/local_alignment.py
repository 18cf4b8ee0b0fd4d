"""Alignment of words with image regions by GLoRIA's attention-weighted similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mlip.losses.contrastive import symmetric_ce

GLORIA_TEMPERATURES = (4.0, 5.0, 10.0)
KEEP_BYTES = 1 << 30  # scores above this are computed again in the backward pass instead of being kept


def gloria_local_similarity(
    grid: Tensor,
    words: Tensor,
    lengths: Tensor,
    temperatures: Sequence[float] = GLORIA_TEMPERATURES,
    agg: Literal["sum", "max"] = "sum",
    chunk: int | None = None,
) -> Tensor:
    """Similarity of every image with every report (Huang et al. 2021, eqs. 3-6; marshuang80/gloria ``local_loss``).

    For image i and word w of report j, with region features ``x_p`` and word feature ``w``:
    ``a_wp = softmax_p(t1 * softmax_w(x_p . w))``, ``c_w = sum_p a_wp x_p`` and
    ``Z_ij = log sum_w exp(t2 cos(w, c_w))`` (``agg="sum"``, training) or ``t2 max_w cos(w, c_w)`` (``agg="max"``, the
    official zero-shot score). The third temperature scales Z inside the loss, see :func:`gloria_local_losses`.

    The context ``c_w`` is never formed: ``w . c_w = sum_p a_wp (x_p . w)`` re-uses the scores and
    ``|c_w|^2 = a_w' G a_w`` needs only the image's Gram matrix G [P, P]. Work goes in chunks of images x reports
    (reports sorted by length, so that short ones are not padded to the longest of the batch). Per score that is
    3 D + 2 P multiplications, forward and backward, against 6 D of a loop that forms ``c_w``; measured ratios and what
    bounds them: ``baselines/gloria/README.md``.

    Parameters
    ----------
    grid : [B, D, H, W] region features, not normalised.
    words : [B', D, L] word features, not normalised.
    lengths : [B'] int, words of each report that count (from index 0), at least 1.
    temperatures : ``(t1, t2, ...)``.
    chunk : scores (image x region x report x word) handled at once; None fits the processor's cache or the GPU.

    Returns
    -------
    [B, B'] float32 (float64 for float64 input); differentiable once in ``grid`` and ``words``.
    """
    context, words = grid.flatten(2).transpose(1, 2), words.transpose(1, 2)
    if context.dtype in (torch.float16, torch.bfloat16) or words.dtype != context.dtype:
        context, words = context.float(), words.float()
    if chunk is None:
        chunk = 1 << 26 if grid.is_cuda else 1 << 20
    with torch.autocast(grid.device.type, enabled=False):
        return _GloriaSimilarity.apply(
            context.contiguous(), words.contiguous(), lengths, temperatures[0], temperatures[1], agg, chunk
        )


def gloria_local_losses(
    grid: Tensor, words: Tensor, lengths: Tensor, temperatures: Sequence[float] = GLORIA_TEMPERATURES
) -> tuple[Tensor, Tensor]:
    """GLoRIA's local losses (image-to-text, text-to-image): cross-entropy of ``t3 * Z`` against the diagonal."""
    return symmetric_ce(gloria_local_similarity(grid, words, lengths, temperatures) * temperatures[2])


def gloria_attention(grid: Tensor, words: Tensor, lengths: Tensor, temperature: float = 4.0) -> Tensor:
    """Where each word of report i looks on image i: [B, D, H, W], [B, D, L], [B] -> [B, L, H, W].

    A word's weights sum to 1 over the image; rows of padding words are zero.
    """
    valid = _valid(lengths, words.shape[2])
    scores = torch.einsum("bdp,bdl->bpl", grid.flatten(2), words)
    over_words = scores.masked_fill(~valid.unsqueeze(1), -torch.inf).softmax(dim=2)
    attention = (over_words * temperature).softmax(dim=1) * valid.unsqueeze(1)
    return attention.transpose(1, 2).unflatten(2, grid.shape[2:])


def _valid(lengths: Tensor, longest: int) -> Tensor:
    return torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)


def _attend(scores: Tensor, padding: Tensor | None, t1: float) -> tuple[Tensor, Tensor]:
    """[c, P, R, L] scores -> softmax over words, and the attention over regions up to a factor for each word.

    The factor is the softmax's denominator: a cosine does not depend on it, so the division is left out.
    """
    if padding is not None:
        scores = scores.masked_fill(padding, -torch.inf)
    over_words = scores.softmax(dim=3)
    return over_words, (over_words * t1).sub_(t1).exp_()


class _GloriaSimilarity(torch.autograd.Function):
    """Chunked forward and hand-derived backward of :func:`gloria_local_similarity`.

    Autograd through the same formulae would store eight score-sized tensors and multiply by G once more; here the
    scores and ``G a`` are stored (or, above ``KEEP_BYTES``, nothing is) and the rest is computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, context: Tensor, words: Tensor, lengths: Tensor, t1: float, t2: float, agg: str, chunk: int
    ) -> Tensor:
        images, regions, _ = context.shape
        order = lengths.argsort(descending=True)
        step_r, step_i = _steps(images, len(words), regions, words.shape[1], chunk)
        groups = []
        for first in range(0, len(words), step_r):
            rows = order[first : first + step_r]
            longest = int(lengths[rows[0]])
            valid = _valid(lengths[rows], longest)
            flat = words[rows, :longest]
            groups.append((rows, flat.flatten(0, 1), None if bool(valid.all()) else ~valid, flat.norm(dim=2)))
        size = 2 * images * regions * sum(g[1].shape[0] for g in groups) * context.element_size()
        keep = any(ctx.needs_input_grad[:2]) and size <= KEEP_BYTES
        gram = context @ context.transpose(1, 2)
        similarity = context.new_empty(images, len(words))
        kept: list[tuple[Tensor, Tensor]] = []
        cosines: list[tuple[Tensor, Tensor]] = []
        for i in range(0, images, step_i):
            x, g = context[i : i + step_i], gram[i : i + step_i]
            for rows, flat, padding, norms in groups:
                scores = (x @ flat.T).unflatten(2, norms.shape)
                product, attention = _attend(scores, padding, t1)
                spread = (g @ attention.flatten(2)).view_as(attention)
                dot = torch.mul(attention, scores, out=product).sum(dim=1)
                square = torch.mul(attention, spread, out=product).sum(dim=1).clamp_min_(1e-16)
                cosine = dot / (norms * square.sqrt()).clamp_min(1e-8)
                logits = cosine * t2 if padding is None else (cosine * t2).masked_fill(padding, -torch.inf)
                similarity[i : i + step_i, rows] = logits.logsumexp(2) if agg == "sum" else logits.amax(2)
                cosines.append((cosine, square))
                if keep:
                    kept.append((scores, spread))
        ctx.save_for_backward(context, words, gram)
        ctx.groups, ctx.kept, ctx.cosines = groups, kept, cosines
        ctx.t1, ctx.t2, ctx.agg, ctx.step_i = t1, t2, agg, step_i
        return similarity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        context, words, gram = ctx.saved_tensors
        d_context, d_gram, d_words = torch.zeros_like(context), torch.zeros_like(gram), torch.zeros_like(words)
        d_groups = [torch.zeros_like(flat) for _, flat, _, _ in ctx.groups]
        block = 0
        for i in range(0, len(context), ctx.step_i):
            part = slice(i, i + ctx.step_i)
            x, g = context[part], gram[part]
            for (rows, flat, padding, norms), d_flat in zip(ctx.groups, d_groups, strict=True):
                cosine, square = ctx.cosines[block]
                scores = ctx.kept[block][0] if ctx.kept else (x @ flat.T).unflatten(2, norms.shape)
                over_words, attention = _attend(scores, padding, ctx.t1)
                spread = ctx.kept[block][1] if ctx.kept else (g @ attention.flatten(2)).view_as(attention)
                block += 1
                logits = cosine * ctx.t2 if padding is None else (cosine * ctx.t2).masked_fill(padding, -torch.inf)
                if ctx.agg == "sum":
                    share = logits.softmax(dim=2)
                else:
                    share = functional.one_hot(logits.argmax(dim=2), logits.shape[2]).to(logits)
                d_cosine = grad[part][:, rows].unsqueeze(2) * share * ctx.t2
                d_dot = (d_cosine / (norms * square.sqrt()).clamp_min(1e-8)).unsqueeze(1)
                d_square = (-d_cosine * cosine / (2 * square)).unsqueeze(1)
                d_gram[part].baddbmm_((attention * d_square).flatten(2), attention.flatten(2).transpose(1, 2))
                # Softmax over regions. Its centring term sum_p a_p (dL/da_p) is zero, since a cosine does not change
                # when the attention of a word is scaled.
                d_over_words = (scores * (d_dot * ctx.t1)).addcmul_(spread, d_square * (2 * ctx.t1)).mul_(attention)
                # Softmax over words.
                d_scores = d_over_words.mul_(over_words)
                d_scores.addcmul_(over_words, d_scores.sum(dim=3, keepdim=True), value=-1)
                d_scores = d_scores.addcmul_(attention, d_dot).flatten(2)
                d_context[part].view(-1, x.shape[2]).addmm_(d_scores.flatten(0, 1), flat)
                d_flat.addmm_(d_scores.flatten(0, 1).T, x.flatten(0, 1))
                d_norms = -(d_cosine * cosine).sum(dim=0) / norms.clamp_min(1e-8)
                d_flat.view(*norms.shape, -1).addcmul_(
                    flat.view(*norms.shape, -1), (d_norms / norms.clamp_min(1e-8)).unsqueeze(2)
                )
        d_context.baddbmm_(d_gram + d_gram.transpose(1, 2), context)
        for (rows, _, _, norms), d_flat in zip(ctx.groups, d_groups, strict=True):
            d_words[rows, : norms.shape[1]] = d_flat.view(*norms.shape, -1)
        return d_context, d_words, None, None, None, None, None


def _steps(images: int, reports: int, regions: int, longest: int, chunk: int) -> tuple[int, int]:
    """How many reports and how many images make a chunk: reports first, since they share one matrix product."""
    step_r = max(1, min(reports, chunk // (regions * longest)))
    step_i = max(1, min(images, chunk // (regions * longest * step_r)))
    return step_r, step_i
