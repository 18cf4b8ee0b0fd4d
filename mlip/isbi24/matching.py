"""Patch-sentence matching by optimal transport: many patches to many sentences, softly and with all mass accounted for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mlip.isbi24.transport import entropic_plan, ipot_plan

CHUNK = 1 << 18  # plan entries solved at once: on a CPU they should stay in the cache
CHUNK_GPU = 1 << 24


def solve(cost: Tensor, sentence_pad: Tensor, solver: str, beta: float, reg: float, iterations: int) -> Tensor:
    """Transport plans [n, M, N] of n problems with uniform weights on patches and on the sentences that are there.

    ``proximal``: IPOT with step ``beta`` (UNITER); ``entropic``: Sinkhorn with entropy weight ``reg`` (POT). No gradient.
    """
    patch_pad = torch.zeros(cost.shape[:2], dtype=torch.bool, device=cost.device)
    if solver == "proximal":
        return ipot_plan(cost, patch_pad, sentence_pad, beta, iterations)
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
    [A, B] float32.
    """
    images, count = patches.shape[:2]
    reports, longest = sentence_pad.shape
    with torch.autocast(patches.device.type, enabled=False):
        cost = 1 - torch.einsum(
            "ame,bne->abmn",
            functional.normalize(patches.float(), dim=-1),
            functional.normalize(sentences.float(), dim=-1),
        )
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
    """The diagonal D_ii alone: [B, M, E], [B, N, E], [B, N] -> [B] float32."""
    with torch.autocast(patches.device.type, enabled=False):
        cost = 1 - functional.normalize(patches.float(), dim=-1) @ functional.normalize(
            sentences.float(), dim=-1
        ).transpose(1, 2)
        return (solve(cost.detach(), sentence_pad, solver, beta, reg, iterations) * cost).sum(dim=(1, 2))


def matching_contrast(distances: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE, mean of both directions, on the similarities ``(1 - D_ij) / temperature``: [B, B] -> scalar."""
    logits = (1 - distances) / temperature
    target = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
