"""Random changes of training films with what is known of them: the whole film, its mask and its boxes move together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np


LEFT = 0.1  # share of a box that must be left in the film


class Augmentation(BaseModel):
    """What happens to a training film; torchvision's transforms (v2), each film its own."""

    model_config = ConfigDict(extra="forbid")
    crop: tuple[float, float] | None = Field(
        None,
        description="a part of the film between these shares of its area, of a ratio of sides of 3/4 to 4/3, enlarged to its size",
    )
    shift: float = Field(
        0.0, ge=0, lt=1, description="largest translation, as a share of the side; what moves in is black"
    )
    scale: float = Field(0.0, ge=0, lt=1, description="largest relative change of size")
    rotate: float = Field(0.0, ge=0, le=180, description="largest angle in degrees")
    move: float = Field(1.0, ge=0, le=1, description="how probable shift, scale and rotate are, which come together")
    flip: float = Field(0.0, ge=0, le=1, description="how probable a mirrored film is (its heart on the right)")

    def transform(self, side: int) -> Any:
        """The transform of one film, which comes out at this size."""
        from torchvision.transforms import InterpolationMode, v2

        bilinear, steps = InterpolationMode.BILINEAR, []
        if self.crop is not None:
            steps.append(v2.RandomResizedCrop(side, scale=self.crop, interpolation=bilinear, antialias=True))
        if self.shift or self.scale or self.rotate:
            affine = v2.RandomAffine(
                self.rotate, (self.shift, self.shift), (1 - self.scale, 1 + self.scale), interpolation=bilinear
            )
            steps.append(v2.RandomApply([affine], self.move))
        if self.flip:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        # A stored film that is larger than what the encoder is given: any part of it; nothing where it is as large.
        return v2.Compose([*steps, v2.RandomCrop(side)])


def augment_images(images: np.ndarray, augmentation: Augmentation | None, side: int) -> np.ndarray:
    """uint8 [B, S, S] -> uint8 [B, side, side]. Draws from torch's global generator, which the caller seeds."""
    import numpy as np
    from torchvision import tv_tensors

    if augmentation is None and images.shape[-1] == side:
        return images
    transform = (augmentation or Augmentation.model_validate({})).transform(side)
    return np.stack([transform(tv_tensors.Image(one[None])).numpy()[0] for one in images])


def augment_with_masks(images: np.ndarray, masks: np.ndarray, augmentation: Augmentation | None) -> tuple[Any, Any]:
    """Films and masks, both uint8 [B, S, S], moved alike."""
    if augmentation is None:
        return images, masks
    import numpy as np
    from torchvision import tv_tensors

    transform = augmentation.transform(images.shape[-1])
    moved = [
        transform(tv_tensors.Image(image[None]), tv_tensors.Mask(mask[None]))
        for image, mask in zip(images, masks, strict=True)
    ]
    return np.stack([i.numpy()[0] for i, _ in moved]), np.stack([m.numpy()[0] for _, m in moved])


def augment_with_boxes(
    images: np.ndarray, corners: Sequence[np.ndarray], augmentation: Augmentation
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Films uint8 [B, S, S] and the corners [n, 4] of the true boxes of each, moved alike.

    Returns
    -------
    The films; for each the corners of the boxes that are left, and which these were, bool [n]. A box that is cut is the smaller,
    one of which less than a tenth is left is gone.
    """
    import numpy as np
    import torch
    from torchvision import tv_tensors

    side = images.shape[-1]
    transform = augmentation.transform(side)
    films, moved = [], []
    for image, own in zip(images, corners, strict=True):
        boxes: Any = tv_tensors.BoundingBoxes(
            torch.from_numpy(own),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=(side, side),
            clamping_mode=None,
        )
        film, boxes = transform(tv_tensors.Image(image[None]), boxes)
        films.append(film.numpy()[0])
        whole = boxes.as_subclass(torch.Tensor).numpy().reshape(-1, 4)
        inside = whole.clip(0, side)
        area, before = (np.prod(c[:, 2:] - c[:, :2], axis=1) for c in (inside, whole))
        left = area >= LEFT * before
        moved.append((inside[left], left))
    return np.stack(films), moved
