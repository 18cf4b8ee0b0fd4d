"""The control of what a network adds: the film itself, made small, as its own feature."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from mlip.contract import Batch, ImageFeatures, Method, TextFeatures
from mlip.errors import UserError

WHERE = "baselines/thumbnail/method.yaml"


class Thumbnail(Method):
    """Grey values averaged over ``side`` x ``side`` cells. No weight takes part; the image encoder is not asked."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise UserError("is a control and is never trained", where=WHERE, fix="keep trained: false")

    def encode_image(self, images: Tensor) -> ImageFeatures:
        cells = functional.adaptive_avg_pool2d(images[:, :1], self.params["side"])  # the three channels are equal
        pooled = cells.flatten(1)
        return ImageFeatures(pooled, cells.permute(0, 2, 3, 1), functional.normalize(pooled, dim=-1))

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        raise UserError("has no text side", where=WHERE, fix="list no text capability")
