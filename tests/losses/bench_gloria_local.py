"""Times GLoRIA's local loss against a loop over reports: ``python -m tests.losses.bench_gloria_local``.

The loop has the structure of the official implementation (one report against all images, context vectors formed in
full); both run forward and backward in float32 on random features of GLoRIA's own sizes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mlip.losses.local_alignment import gloria_local_losses

SHAPE = {"batch": 48, "dim": 768, "side": 19, "words": 97}  # GLoRIA's batch, width, layer3 grid and caption length


def loop_losses(grid: Tensor, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The same two losses, one report at a time, by autograd: the yardstick for speed and for correctness."""
    context = grid.flatten(2)
    columns = []
    for report, length in zip(words, lengths.tolist(), strict=True):
        query = report[:, :length].expand(len(grid), -1, -1)
        attention = (context.transpose(1, 2) @ query).softmax(dim=2).transpose(1, 2)
        attention = (attention * 4.0).softmax(dim=2)
        attended = context @ attention.transpose(1, 2)
        columns.append(torch.logsumexp(functional.cosine_similarity(query, attended, dim=1) * 5.0, dim=1))
    logits = torch.stack(columns, dim=1) * 10.0
    targets = torch.arange(len(grid), device=grid.device)
    return functional.cross_entropy(logits, targets), functional.cross_entropy(logits.T, targets)


def measure(
    losses: Callable[..., tuple[Tensor, Tensor]], ragged: bool, batch: int, dim: int, side: int, words: int
) -> tuple[float, float]:
    """Wall-clock and processor seconds of one forward and backward pass."""
    generator = torch.Generator().manual_seed(0)
    grid = (torch.randn(batch, dim, side, side, generator=generator) * 0.2).requires_grad_()
    text = (torch.randn(batch, dim, words, generator=generator) * 0.2).requires_grad_()
    lengths = torch.randint(5, 41, (batch,), generator=generator) if ragged else torch.full((batch,), words)
    wall, cpu = time.perf_counter(), time.process_time()
    torch.stack(losses(grid, text, lengths)).sum().backward()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(repeats: int = 3) -> None:
    """Print the best of ``repeats`` interleaved passes: on a shared machine the minimum is what repeats.

    Processor seconds (summed over threads) stand beside wall-clock seconds, since other jobs distort them less.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    variants = {"vectorised": gloria_local_losses, "loop": loop_losses}
    for name, ragged in (("5-40 words, as one sentence has", True), ("all 97 words", False)):
        best = dict.fromkeys(variants, (float("inf"), float("inf")))
        for _ in range(repeats):
            for variant, losses in variants.items():
                wall, cpu = measure(losses, ragged, **SHAPE)
                best[variant] = (min(best[variant][0], wall), min(best[variant][1], cpu))
        times = ", ".join(f"{variant} {wall:.2f} s (processor {cpu:.2f} s)" for variant, (wall, cpu) in best.items())
        ratios = [best["loop"][k] / best["vectorised"][k] for k in (0, 1)]
        print(f"{name}: {times}, ratio {ratios[0]:.2f} (processor {ratios[1]:.2f})", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
