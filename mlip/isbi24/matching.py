"""Patch-sentence matching by optimal transport: many patches to many sentences, softly and with all mass accounted for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mlip.isbi24.transport import entropic_plan, ipot_plan
from mlip.losses.contrastive import symmetric_ce

CHUNK = 1 << 18  # plan entries solved at once: on a CPU they should stay in the cache
CHUNK_GPU = 1 << 24


def solve(cost: Tensor, sentence_pad: Tensor, solver: str, beta: float, reg: float, iterations: int) -> Tensor:
    """Transport plans [n, M, N] of n problems with uniform weights on patches and on the sentences that are there.

    ``proximal``: IPOT with step ``beta`` (UNITER); ``entropic``: Sinkhorn with entropy weight ``reg`` (POT). No gradient.
    """
    if solver == "proximal":
        return ipot_plan(cost, sentence_pad, beta, iterations)
    a = cost.new_full(cost.shape[:2], 1 / cost.shape[1])
    b = (~sentence_pad).to(cost)
    return entropic_plan(cost, a, b / b.sum(dim=1, keepdim=True), reg, iterations)


def transport_distances(
    patches: Tensor, sentences: Tensor, sentence_pad: Tensor, solver: str, beta: float, reg: float, iterations: int
) -> Tensor:
    """``D_ij = <T*_ij, C_ij>``, the transport cost between the patches of image i and the sentences of report j.

    ``C = 1 - cos``. The plans are solved in chunks without gradient; the gradient goes through C (envelope theorem).

    Parameters
    ----------
    patches : [A, M, E]; sentences : [B, N, E]; sentence_pad : [B, N] bool, True = padding, no row all True.

    Returns
    -------
    [A, B] float32 (float64 for float64 input).
    """
    images, count = patches.shape[:2]
    reports, longest = sentence_pad.shape
    with torch.autocast(patches.device.type, enabled=False):
        cost = 1 - torch.einsum("ame,bne->abmn", _unit(patches), _unit(sentences))
        rows = max(1, (CHUNK_GPU if cost.is_cuda else CHUNK) // (reports * count * longest))
        plans = []
        with torch.no_grad():
            for part in cost.detach().split(rows):
                pad = sentence_pad.expand(len(part), -1, -1).flatten(0, 1)
                plan = solve(part.flatten(0, 1), pad, solver, beta, reg, iterations)
                plans.append(plan.unflatten(0, (len(part), reports)))
        return (torch.cat(plans) * cost).sum(dim=(2, 3)) if images else cost.sum(dim=(2, 3))


def matched_distances(
    patches: Tensor, sentences: Tensor, sentence_pad: Tensor, solver: str, beta: float, reg: float, iterations: int
) -> Tensor:
    """The diagonal D_ii alone: [B, M, E], [B, N, E], [B, N] -> [B], else as :func:`transport_distances`."""
    with torch.autocast(patches.device.type, enabled=False):
        cost = 1 - _unit(patches) @ _unit(sentences).transpose(1, 2)
        return (solve(cost.detach(), sentence_pad, solver, beta, reg, iterations) * cost).sum(dim=(1, 2))


def _unit(x: Tensor) -> Tensor:
    """``x`` scaled to unit length; half precision becomes float32, in which the plans are solved."""
    return functional.normalize(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, dim=-1)


def matching_contrast(distances: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE, mean of both directions, on the similarities ``(1 - D_ij) / temperature``: [B, B] -> scalar."""
    there, back = symmetric_ce((1 - distances) / temperature)
    return (there + back) / 2
