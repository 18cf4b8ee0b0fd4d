"""The control of what films add: the study's pretrained image encoder as every row starts from it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from mlip.contract import Batch, ImageFeatures, Method, TextFeatures
from mlip.errors import UserError


class PretrainedEncoder(Method):
    """The encoder alone. It has no joint space with text: zero-shot and retrieval are skipped."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise UserError(
            "is a control and is never trained", where="baselines/imagenet/method.yaml", fix="keep trained: false"
        )

    def encode_image(self, images: Tensor) -> ImageFeatures:
        image = self.image_encoder(images)
        return ImageFeatures(image.pooled, image.grid, functional.normalize(image.pooled, dim=-1))

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        raise UserError("has no text side", where="baselines/imagenet/method.yaml", fix="list no text capability")
