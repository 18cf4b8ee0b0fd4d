"""Rows of all processes, or of all chunks, put together; gradients of all processes averaged.

The mean is taken here and not by ``DistributedDataParallel``: a step may need several backward passes (``pretrain.chunk``),
and not every parameter has a gradient in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mlip.pretraining.processes import Ranks

BUCKET = 1 << 24  # numbers that are averaged in one message


def gather(representations: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """The rows of all processes, in the order of their ranks: [b, ...] by name -> [count * b, ...].

    Dimensions in which the processes differ are padded with zeros to the largest. Differentiable: every process computes the
    same objective of all rows, so the gradient of its own ones is already whole. It is multiplied by the number of
    processes, over which :func:`average_gradients` takes the mean.
    """
    some = next(iter(representations.values()))
    shapes = torch.tensor([n for x in representations.values() for n in x.shape[1:]], device=some.device)
    dist.all_reduce(shapes, dist.ReduceOp.MAX)
    sizes, found = iter(shapes.tolist()), {}
    for name, x in representations.items():
        x = _padded(x, [next(sizes) for _ in x.shape[1:]])
        if x.dtype is torch.bool:  # which not every backend sends
            found[name] = _rows_of_all(x.to(torch.uint8), ranks).bool()
        else:
            found[name] = _Gather.apply(x, ranks) if x.is_floating_point() else _rows_of_all(x, ranks)
    return found


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Representations of the parts of a batch, one below the other, padded as in :func:`gather`."""
    found = {}
    for name in parts[0]:
        pieces = [part[name] for part in parts]
        shape = [max(sizes) for sizes in zip(*(x.shape[1:] for x in pieces), strict=True)]
        found[name] = torch.cat([_padded(x, shape) for x in pieces])
    return found


def average_gradients(module: nn.Module, ranks: Ranks) -> None:
    """The mean over the processes, in place. A parameter that has a gradient in none of them keeps none."""
    trained = [p for p in module.parameters() if p.requires_grad]
    there = torch.tensor([p.grad is not None for p in trained], dtype=torch.int32, device=trained[0].device)
    dist.all_reduce(there, dist.ReduceOp.MAX)
    gradients = []
    for p, somewhere in zip(trained, there.tolist(), strict=True):
        if somewhere:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            gradients.append(p.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([g.flatten() for g in bucket])
        dist.all_reduce(flat)
        flat /= ranks.count
        for g, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            g.copy_(mean.view(g.shape))


def average(values: Tensor, ranks: Ranks) -> Tensor:
    """The mean of a tensor over the processes, without gradient."""
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / ranks.count


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.numel() for t in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _padded(x: Tensor, shape: list[int]) -> Tensor:
    """[b, ...] -> [b, *shape], zeros behind what is there."""
    missing = [wanted - has for wanted, has in zip(shape, x.shape[1:], strict=True)]
    return functional.pad(x, [n for m in reversed(missing) for n in (0, m)]) if any(missing) else x


def _rows_of_all(x: Tensor, ranks: Ranks) -> Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(ranks.count)]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.rows = ranks, len(x)
        return _rows_of_all(x, ranks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        own = slice(ctx.ranks.rank * ctx.rows, (ctx.ranks.rank + 1) * ctx.rows)
        return grad[own] * ctx.ranks.count, None
