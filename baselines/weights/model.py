"""An image encoder that others trained, as its checkpoint has it: any of timm's models, at its own size and grey values."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip.contract import ImageFeatures, Untrained
from mlip.encoders.foreign import load_whole, read_foreign
from mlip.encoders.image import ImageEncoder
from mlip.errors import UserError
from mlip.study import ImageEncoderConfig, WeightsConfig


class ForeignEncoder(Untrained):
    """The encoder alone. It has no joint space with text: zero-shot and retrieval are skipped."""

    def load_weights(self, weights: WeightsConfig, key: str) -> None:
        _load(self.image_encoder.model, weights, key)

    @classmethod
    def check_weights(cls, weights: WeightsConfig, kind: Literal["cnn", "vit"], image_size: int, key: str) -> None:
        """Names and shapes, on the device ``meta``.

        Raises
        ------
        UserError : the row does not say what the network is or which grey values it saw, or the file does not fit it.
        """
        for name in ("architecture", "normalise"):
            if getattr(weights, name) is None:
                raise UserError(
                    f"does not say {name}, and a state dict does not tell",
                    where=key,
                    fix="give timm's name of the network"
                    if name == "architecture"
                    else "half, imagenet, clip or {mean, std}",
                )
        if weights.file is None:
            raise UserError("names a folder", where=key, fix="name the weights file in it")
        config = ImageEncoderConfig(name=str(weights.architecture), input_size=weights.input_size)
        with torch.device("meta"):
            encoder = ImageEncoder(config, kind, image_size, hub=False, grey=weights.grey, where=key)
        _load(encoder.model, weights, key, meta=True)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        image = self.image_encoder(images)
        return ImageFeatures(image.pooled, image.grid, functional.normalize(image.pooled, dim=-1))


def _load(model: nn.Module, weights: WeightsConfig, key: str, meta: bool = False) -> None:
    load_whole(model, read_foreign(weights, key, meta), weights.path, key, classifier=True)
