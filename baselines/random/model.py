"""The control: an image encoder and heads that were never trained. What it scores is what a task gives for nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from mlip.contract import ImageFeatures, MethodContext, TextFeatures, Untrained


class RandomEncoder(Untrained):
    """The study's encoders from random weights, and a random linear head on each side."""

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        dim = self.params["embed_dim"]
        self.head_v = nn.Linear(self.image_encoder.dim, dim)
        self.head_t = nn.Linear(self.text_encoder.dim, dim)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        image = self.image_encoder(images)
        return ImageFeatures(image.pooled, image.grid, functional.normalize(self.head_v(image.pooled), dim=-1))

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        text = self.text_encoder(self.tokenizer(texts).to(self.device))
        return TextFeatures(functional.normalize(self.head_t(text.cls), dim=-1))
