"""The control of what films add: the study's pretrained image encoder as every row starts from it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from mlip.contract import ImageFeatures, Untrained


class PretrainedEncoder(Untrained):
    """The encoder alone. It has no joint space with text: zero-shot and retrieval are skipped."""

    def encode_image(self, images: Tensor) -> ImageFeatures:
        image = self.image_encoder(images)
        return ImageFeatures(image.pooled, image.grid, functional.normalize(image.pooled, dim=-1))
