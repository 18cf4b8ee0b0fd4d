"""Operations of a step against counts by hand; memory against what was allocated."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from mlip.pretraining.cost import flops_of, peak_memory

IMAGES = (2, 8, 6, 6)
BY_HAND = {  # forward, gradient of the input, gradient of the weight
    "dense": (nn.Linear(10, 20), (5, 10), 3 * 2 * 5 * 10 * 20),
    "convolution": (nn.Conv2d(8, 4, 3, padding=1), IMAGES, 3 * 2 * 2 * 4 * 36 * 8 * 9),
    "of stride 2": (nn.Conv2d(8, 4, 3, padding=1, stride=2), IMAGES, 3 * 2 * 2 * 4 * 9 * 8 * 9),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), IMAGES, 3 * 2 * 2 * 8 * 36 * 9),
    "transposed": (nn.ConvTranspose2d(8, 4, 2, stride=2), IMAGES, 3 * 2 * 2 * 8 * 36 * 4 * 4),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_operations_equal_those_counted_by_hand(name: str) -> None:
    layer, shape, expected = BY_HAND[name]
    images = torch.randn(shape, requires_grad=True)
    assert flops_of(lambda: layer(images).square().sum()) == expected
    assert flops_of(lambda: layer(images.detach()).square().sum()) == expected * 2 // 3, "no gradient of the input"


def test_memory_grows_with_what_is_held() -> None:
    before = peak_memory(torch.device("cpu"))
    free = before - psutil.Process().memory_info().rss  # what was held once and is no more
    held = np.ones(free + 300_000_000, dtype=np.uint8)
    assert before + 2e8 < peak_memory(torch.device("cpu")) < before + 5e8 + held[0]
