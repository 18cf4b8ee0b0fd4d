"""Depthwise convolutions on small maps, as sums of shifted products: on a CPU several times as fast as the library's kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGEST = 16  # cells of a map; on larger ones oneDNN is as fast


class SmallMapDepthwise(nn.Conv2d):
    """A depthwise convolution of stride 1 that keeps the map's size.

    On maps of up to 16 cells most products of a 5 x 5 kernel fall outside the map, and oneDNN's backward pass over them took
    most of an EfficientNet's step (ratio: docs/benchmarks.md). Elsewhere (larger maps, GPUs) it is torch's convolution. Same
    weights, same result up to rounding.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or input.shape[2] * input.shape[3] > LARGEST or input.dtype != self.weight.dtype:
            return super().forward(input)
        out: Tensor = _ShiftedProducts.apply(input, self.weight)
        return out if self.bias is None else out + self.bias.view(1, -1, 1, 1)


def use_small_maps(model: nn.Module) -> None:
    """Let the depthwise convolutions of a model that fit take :class:`SmallMapDepthwise`'s way, with the weights they have."""
    for module in model.modules():
        if type(module) is nn.Conv2d and _fits(module):
            module.__class__ = SmallMapDepthwise


def _fits(conv: nn.Conv2d) -> bool:
    same = all(k % 2 for k in conv.kernel_size) and conv.padding == tuple(k // 2 for k in conv.kernel_size)
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    return depthwise and same and conv.stride == (1, 1) == conv.dilation and conv.padding_mode == "zeros"


class _ShiftedProducts(torch.autograd.Function):
    """[B, C, H, W], [C, 1, k, k'] -> [B, C, H, W], computed with the channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.permute(0, 2, 3, 1).contiguous(), weight[:, 0].permute(1, 2, 0).contiguous()
        ctx.save_for_backward(x, weight)
        out = torch.zeros_like(x)
        for place, there, here in _shifts(x, weight):
            out[there].addcmul_(x[here], weight[place])
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grad.permute(0, 2, 3, 1).contiguous()
        of_x, of_weight = torch.zeros_like(x), torch.zeros_like(weight)
        for place, there, here in _shifts(x, weight):
            of_x[here].addcmul_(grad[there], weight[place])
            of_weight[place] = (grad[there] * x[here]).sum((0, 1, 2))
        return of_x.permute(0, 3, 1, 2), of_weight.permute(2, 0, 1).unsqueeze(1)


Place = tuple[int, int]
Cells = tuple[slice, slice, slice]


def _shifts(x: Tensor, weight: Tensor) -> Iterator[tuple[Place, Cells, Cells]]:
    """Places of the kernel, and for each the output cells that it serves and the input cells that it takes to them."""
    rows, columns = (list(_along(x.shape[1 + axis], weight.shape[axis])) for axis in (0, 1))
    for i, out_rows, in_rows in rows:
        for j, out_columns, in_columns in columns:
            yield (i, j), (slice(None), out_rows, out_columns), (slice(None), in_rows, in_columns)


def _along(cells: int, kernel: int) -> Iterator[tuple[int, slice, slice]]:
    for place in range(kernel):
        shift = place - kernel // 2
        low, high = max(0, -shift), min(cells, cells - shift)
        if high > low:
            yield place, slice(low, high), slice(low + shift, high + shift)
