"""What a recipe does to training films in place of the project's own augmentation: torchvision's transforms, each film its own.

The formulas are torchvision's, which the official codes use. The draws come from one generator, so that a batch can be made
again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mlip.manifest import AugmentSpec, Range

ASPECTS = (3 / 4, 4 / 3)  # of a resized crop, torchvision's default
TRIES = 10  # to place one, as torchvision does before it takes the centre


def augmented(films: np.ndarray, spec: AugmentSpec, side: int, generator: torch.Generator) -> Tensor:
    """Training films as a recipe's ``augment`` says.

    Parameters
    ----------
    films : uint8 [B, S, S].
    spec : what is done, in the order of its keys.
    side : of the films that come out: the study's ``crop_size``, or S.
    generator : CPU generator, the only source of randomness.

    Returns
    -------
    float32 [B, 3, side, side] in [-1, 1], channels sharing memory.
    """
    import torch

    done = [_one(torch.from_numpy(np.ascontiguousarray(film))[None], spec, side, generator) for film in films]
    return torch.stack(done).mul_(2).sub_(1).expand(-1, 3, -1, -1)


def _one(film: Tensor, spec: AugmentSpec, side: int, generator: torch.Generator) -> Tensor:
    """uint8 [1, S, S] -> float32 [1, side, side] in [0, 1]."""
    import torch
    from torchvision.transforms import functional as tv
    from torchvision.transforms.functional import InterpolationMode

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    bilinear = InterpolationMode.BILINEAR
    if spec.resized_crop:
        top, left, height, width = _place(film.shape[-1], spec.resized_crop, generator)
        film = tv.resized_crop(film, top, left, height, width, [side, side], bilinear, antialias=True)
    elif side < film.shape[-1]:
        room = film.shape[-1] - side + 1
        top, left = (int(torch.randint(room, (), generator=generator)) for _ in range(2))
        film = film[:, top : top + side, left : left + side]
    if spec.flip and uniform(0, 1) < spec.flip:
        film = tv.hflip(film)
    if spec.rotate or spec.shift or spec.scale:
        angle = uniform(-spec.rotate, spec.rotate)
        offset = [round(uniform(-spec.shift, spec.shift) * side) for _ in range(2)]
        factor = uniform(*spec.scale) if spec.scale else 1.0
        film = tv.affine(film, angle, offset, factor, [0.0, 0.0], bilinear)
    grey = film.to(torch.float32) / 255
    if spec.brightness:
        grey = tv.adjust_brightness(grey, uniform(*spec.brightness))
    if spec.contrast:
        grey = tv.adjust_contrast(grey, uniform(*spec.contrast))
    if spec.blur:
        sigma = uniform(*spec.blur)
        kernel = 2 * math.ceil(3 * spec.blur[1]) + 1  # wide enough for the widest; ours, the papers give none
        grey = tv.gaussian_blur(grey, [kernel, kernel], [sigma, sigma])
    return grey


def _place(size: int, area: Range, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height, width of a part of a film of ``size`` pixels with a share of its area drawn from ``area``."""
    import torch

    for _ in range(TRIES):
        share, aspect = torch.rand(2, generator=generator).tolist()
        pixels = size * size * (area[0] + (area[1] - area[0]) * share)
        ratio = math.exp(math.log(ASPECTS[0]) + (math.log(ASPECTS[1]) - math.log(ASPECTS[0])) * aspect)
        width, height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < width <= size and 0 < height <= size:
            top = int(torch.randint(size - height + 1, (), generator=generator))
            left = int(torch.randint(size - width + 1, (), generator=generator))
            return top, left, height, width
    return 0, 0, size, size
