"""Depthwise convolutions on small maps give torch's values and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mlip.encoders.depthwise import SmallMapDepthwise, use_small_maps


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (5, 3)])
@pytest.mark.parametrize("size", [(4, 4), (2, 2), (1, 1), (3, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_torch(kernel: tuple[int, int], size: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2)
    theirs = nn.Conv2d(6, 6, kernel, padding=padding, groups=6, bias=bias).double()
    ours = copy.deepcopy(theirs)
    use_small_maps(nn.Sequential(ours))
    assert type(ours) is SmallMapDepthwise
    x = torch.randn(3, 6, *size, dtype=torch.float64)
    outs = []
    for conv in (theirs, ours):
        given = x.clone().requires_grad_()
        out = conv(given)
        out.backward(torch.arange(out.numel(), dtype=torch.float64).view_as(out))
        outs.append([out, given.grad, *(p.grad for p in conv.parameters())])
    for a, b in zip(*outs, strict=True):
        torch.testing.assert_close(a, b)


def test_only_fitting_convolutions_change() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, stride=2),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
    )
    use_small_maps(model)
    assert [type(m) is SmallMapDepthwise for m in model] == [True, False, False, False, False]
