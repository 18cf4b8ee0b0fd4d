"""The control of what a network adds: the film itself, made small, as its own feature."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from mlip.contract import ImageFeatures, Untrained


class Thumbnail(Untrained):
    """Grey values averaged over ``side`` x ``side`` cells. No weight takes part; the image encoder is not asked."""

    def encode_image(self, images: Tensor) -> ImageFeatures:
        cells = functional.adaptive_avg_pool2d(images[:, :1], self.params["side"])  # the three channels are equal
        pooled = cells.flatten(1)
        return ImageFeatures(pooled, cells.permute(0, 2, 3, 1), functional.normalize(pooled, dim=-1))
