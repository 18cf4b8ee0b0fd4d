"""A dual encoder that others trained, as its checkpoint has it: both sides with their own tokenizer, text length and grey values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from baselines.clip.example import write_example
from baselines.clip.layouts import describe
from mlip.contract import ImageFeatures, MethodContext, TextFeatures, Untrained
from mlip.errors import UserError
from mlip.study import WeightsConfig


class DualEncoder(Untrained):
    """Cosines of the two sides. The study's own encoders and tokenizer are put aside.

    Raises
    ------
    UserError : the row names no checkpoint, or one of another layout.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        if context.weights is None:
            raise self._refusal("is nothing without a checkpoint", "give a variant of it `weights`, see its README.md")
        self._dual = describe(context.weights, context.key)
        self.image_encoder: Any = self._dual.image
        self.text_encoder: Any = self._dual.text

    def load_weights(self, weights: WeightsConfig, key: str) -> None:
        self._dual.load(weights, key)

    @classmethod
    def check_weights(cls, weights: WeightsConfig, kind: Literal["cnn", "vit"], image_size: int, key: str) -> None:
        """The network is built and the file's names and shapes are compared with it, on the device ``meta``.

        Raises
        ------
        UserError : as :func:`describe`; the two do not fit; or the row calls a CNN a ViT, or a ViT a CNN.
        """
        with torch.device("meta"):
            dual = describe(weights, key)
            dual.load(weights, key, meta=True)
            if dual.image.kind != kind:
                raise UserError(
                    f"its image side is a {dual.image.kind}", where=key, fix=f"set encoder: {dual.image.kind}"
                )

    @classmethod
    def example_weights(cls, kind: Literal["cnn", "vit"], folder: Path) -> WeightsConfig:
        return write_example(kind, folder)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        image, joint = self.image_encoder.both(images)
        return ImageFeatures(image.pooled, image.grid, functional.normalize(joint, dim=-1))

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        return TextFeatures(functional.normalize(self.text_encoder(texts), dim=-1))
