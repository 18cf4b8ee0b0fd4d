"""What a training costs beside its time: memory, and floating-point operations of a step."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that PyTorch held on the GPU, or the largest resident size of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux gives KiB


def flops_of(loss: Callable[[], Tensor]) -> int:
    """Floating-point operations of a loss and its gradient, a multiplication and an addition being two.

    Counted by PyTorch in matrix products, convolutions and attention; what works element by element (norms, activations,
    depthwise convolutions done as products of shifted maps) is not in it. Gradients are left behind.
    """
    return counted(lambda: loss().backward())


def counted(action: Callable[[], object]) -> int:
    """Floating-point operations of whatever is done, counted as in :func:`flops_of`."""
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward_of_convolution}
    )
    with counter:
        action()
    return int(counter.get_total_flops())


def _backward_of_convolution(
    gradient: Sequence[int], images: Sequence[int], weight: Sequence[int], *args: Any, **_: Any
) -> int:
    """As many operations as forward for each gradient asked for. (PyTorch's own formula passes over the groups.)

    ``gradient [B, out, h, w]``, ``weight [out, in / groups, kh, kw]``; of a transposed convolution ``weight [in, out / groups,
    kh, kw]`` is met by every pixel of its ``images [B, in, h, w]``.
    """
    transposed, asked = bool(args[4]), args[7]
    once = 2 * prod(images if transposed else gradient) * prod(weight[1:])
    return once * sum(map(bool, asked[:2]))
