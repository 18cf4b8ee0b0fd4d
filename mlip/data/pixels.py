"""From stored uint8 films to network input: loading, normalisation, augmentation.

Torch is imported inside the functions: benchmarks look at rows and pixels without a network, and that
must not cost that import.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def to_tensor(images: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [B, S, S] -> float32 [B, 3, S, S] in [-1, 1]: (x / 255 - 0.5) / 0.5, grey as three equal channels.

    The three channels share memory (an expanded view): clone before writing into it.
    """
    import torch

    grey = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return grey.to(torch.float32).mul_(2 / 255).sub_(1).unsqueeze(1).expand(-1, 3, -1, -1)


def centre(images: np.ndarray, side: int | None) -> np.ndarray:
    """[N, S, S] -> the central ``side`` x ``side`` pixels of each, a view; None: all of it. What every encoder sees of a film
    outside training (``crop_size`` of the study)."""
    if side is None:
        return images
    start = (images.shape[-1] - side) // 2
    return images[..., start : start + side, start : start + side]


def load(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """uint8 [B, S, S] of the given rows of a memory map, read in file order, returned in the order asked for."""
    rows = np.asarray(rows)
    batch = np.empty((len(rows), *images.shape[1:]), images.dtype)
    for place in np.argsort(rows, kind="stable"):
        batch[place] = images[rows[place]]  # one copy each; fancy indexing both sides would make two
    return batch


def augment(
    images: Tensor,
    generator: torch.Generator,
    *,
    shift: float = 0.06,
    scale: float = 0.05,
    rotate: float = 5.0,
    brightness: float = 0.1,
    contrast: float = 0.1,
) -> Tensor:
    """Random translation, scaling, rotation, brightness and contrast of a batch, each image its own.

    No flips: a flipped film has the heart on the right, and reports say left and right.

    Parameters
    ----------
    images : [B, 3, S, S] in [-1, 1] with equal channels, as :func:`to_tensor` gives it.
    generator : CPU generator, the only source of randomness.
    shift : largest translation as a share of the side; what moves in is black.
    scale : largest relative change of size. rotate : largest angle in degrees.
    brightness : largest additive change as a share of the grey range. contrast : largest relative change of contrast.

    Returns
    -------
    [B, 3, S, S] float in [-1, 1], channels sharing memory.
    """
    import torch
    from torch.nn import functional

    count, device = len(images), images.device

    def uniform(limit: float, *shape: int) -> Tensor:
        return ((torch.rand(count, *shape, generator=generator) * 2 - 1) * limit).to(device)

    offset = uniform(2 * shift, 2)  # affine_grid's coordinates span two units
    zoom, angle = 1 / (1 + uniform(scale)), uniform(math.radians(rotate))
    gain, bias = 1 + uniform(contrast, 1, 1, 1), uniform(2 * brightness, 1, 1, 1)
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    theta = torch.stack([torch.stack([cos, -sin, offset[:, 0]], -1), torch.stack([sin, cos, offset[:, 1]], -1)], 1)
    grey = images[:, :1] + 1  # black becomes 0, which is what grid_sample pads with
    grid = functional.affine_grid(theta.to(grey.dtype), list(grey.shape), align_corners=False)
    moved = functional.grid_sample(grey, grid, padding_mode="zeros", align_corners=False)
    middle = moved.mean(dim=(2, 3), keepdim=True)
    jittered = (moved - middle) * gain + middle + bias
    return jittered.sub_(1).clamp_(-1, 1).expand(-1, 3, -1, -1)
