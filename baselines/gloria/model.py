"""GLoRIA (Huang et al., ICCV 2021): global contrast and attention-weighted contrast of words with image regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip.contract import Batch, ImageFeatures, Method, MethodContext, TextFeatures
from mlip.encoders.image import ImageEncoder
from mlip.encoders.text import aggregate_words
from mlip.errors import UserError
from mlip.losses.contrastive import global_losses
from mlip.losses.local_alignment import gloria_attention, gloria_local_losses, gloria_local_similarity
from mlip.text.reports import join_sentences, plain_words, split_sentences
from mlip.text.tokenisation import TokenBatch

if TYPE_CHECKING:
    import numpy as np

    from mlip.text.reports import Report

WHERE = "baselines/gloria/method.yaml"
WORDS = ("written", "plain")


class GLoRIA(Method):
    """Image features are projected into BERT's own space [E = D_text]; the text has no projection. With ``centred_heads`` a
    batch norm without weights ends both global features.

    Raises
    ------
    UserError : both components are off, or ``words`` is unknown.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        if not any(self.components.values()):
            raise UserError("all components are off", where=WHERE, fix="switch one on")
        if self.params["words"] not in WORDS:
            raise UserError(f"words is {self.params['words']!r}", where=WHERE, fix=f"one of {WORDS}")
        dim = self.text_encoder.dim
        self.head_global = nn.Linear(self.image_encoder.dim, dim)
        if not self.components["global"]:
            self.head_global.requires_grad_(False)
            _freeze_beyond_grid(self.image_encoder)
        self.centre_image, self.centre_text = (
            nn.BatchNorm1d(dim, affine=False) if self.params["centred_heads"] else nn.Identity() for _ in range(2)
        )
        if self.components["local"]:
            self.head_local = nn.Linear(self.image_encoder.grid_dim, dim, bias=False)  # a 1 x 1 convolution
        p = self.params
        self.temperatures = (p["temperature_attention"], p["temperature_words"], p["temperature_loss"])

    def text_view(self, report: Report, rng: np.random.Generator) -> str:
        """One random sentence of the report, as ``full_report: false`` in the official configuration; else all of it."""
        whole = self.params["full_report"] or not report.sentences
        sentences = report.sentences if whole else [report.sentences[rng.integers(len(report.sentences))]]
        return plain_words(sentences) if self.params["words"] == "plain" else join_sentences(sentences)

    def represent(self, batch: Batch) -> dict[str, Tensor]:
        """``image`` and ``text`` [B, E]; for the local term ``grid`` [B, E, h, w], ``words`` [B, 1+W, E] and ``there`` [B, 1+W]."""
        image = self.image_encoder(batch.images)
        sentence, words, pad = self._text(batch.tokens)
        found = {"image": self._global(image.pooled), "text": sentence}
        if self.components["local"]:
            found |= {"grid": self.head_local(image.grid).permute(0, 3, 1, 2), "words": words, "there": ~pad}
        return found

    def objective(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Terms ``global`` and ``local``, each the sum of image-to-text and text-to-image."""
        r = representations
        terms = self.pair_terms(r["image"], r["text"], batch)
        if self.components["local"]:
            lengths = r["there"].sum(dim=1)
            to_text, to_image = gloria_local_losses(r["grid"], r["words"].transpose(1, 2), lengths, self.temperatures)
            terms["local"] = to_text + to_image
        return terms

    def pair_terms(self, image: Tensor, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The term ``global`` where it is on."""
        if not self.components["global"]:
            return {}
        to_text, to_image = global_losses(image, text, self.temperatures[2])
        return {"global": to_text + to_image}

    def _global(self, pooled: Tensor) -> Tensor:
        image: Tensor = self.centre_image(self.head_global(pooled))
        return image

    def loss_weights(self) -> dict[str, float]:
        return {name: float(self.params[f"weight_{name}"]) for name, on in self.components.items() if on}

    def _text(self, tokens: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Sentence [B, E], words [B, 1+W, E] with [CLS] first, pad mask [B, 1+W].

        Each is a sum over the last layers. The official sentence vector is the mean over all positions of the padded
        caption; the sum over its pieces has the same direction, and only cosines are taken of it.
        """
        count = min(self.params["last_layers"], self.text_encoder.depth)
        hidden = self.text_encoder(tokens, layers=count).layers.sum(dim=0)
        words, pad = aggregate_words(hidden, tokens)
        sentence = self.centre_text((hidden * tokens.attention_mask.unsqueeze(2)).sum(dim=1))
        return sentence, torch.cat([hidden[:, :1], words], dim=1), functional.pad(pad, (1, 0), value=False)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """``grid`` is in the text's space where the local component is on, else the encoder's own."""
        image = self.image_encoder(images)
        grid = self.head_local(image.grid) if self.components["local"] else image.grid
        return ImageFeatures(image.pooled, grid, functional.normalize(self._global(image.pooled), dim=-1))

    def _tokens(self, texts: Sequence[str]) -> TokenBatch:
        """Texts of others, seen as the training saw sentences."""
        if self.params["words"] == "plain":
            texts = [plain_words(split_sentences(text)) for text in texts]
        return self.tokenizer(texts).to(self.device)

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        """``local`` holds [CLS] and the words."""
        sentence, words, pad = self._text(self._tokens(texts))
        return TextFeatures(functional.normalize(sentence, dim=-1), words, pad)

    def similarity(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """The official zero-shot score: mean of the cosine and of ``5 max_w cos(w, c_w)`` (components that are on)."""
        scores = []
        if self.components["global"]:
            scores.append(super().similarity(image, text))
        if self.components["local"]:
            assert text.local is not None and text.local_mask is not None
            grid, words = image.grid.permute(0, 3, 1, 2), text.local.transpose(1, 2)
            lengths = _lengths(text.local_mask)
            scores.append(gloria_local_similarity(grid, words, lengths, self.temperatures, agg="max"))
        return torch.stack(scores).mean(dim=0)

    @torch.no_grad()
    def heatmap(self, images: Tensor, text: str) -> Tensor:
        """Mean attention of the text's words: [B, 3, H, W] -> [B, h, w], each map sums to 1.

        A region divides its attention among all words and [CLS], so that the mean over many words says little: the
        shorter the text, the sharper the map.

        Raises
        ------
        UserError : the local component, which trains the attention, is off.
        """
        if not self.components["local"]:
            raise UserError("has no attention without the local component", where=WHERE, fix="switch it on")
        _, words, pad = self._text(self._tokens([text]))
        grid = self.head_local(self.image_encoder(images).grid).permute(0, 3, 1, 2)
        words = words.transpose(1, 2).expand(len(images), -1, -1)
        attention = gloria_attention(grid, words, _lengths(pad).expand(len(images)), self.temperatures[0])
        return attention[:, 1:].mean(dim=1) if attention.shape[1] > 1 else attention[:, 0]

    def maps(self, images: Tensor, prompt: str) -> dict[str, Tensor]:
        """``word attention``, see :meth:`heatmap`."""
        return {"word attention": self.heatmap(images, prompt)} if self.components["local"] else {}


def _lengths(pad: Tensor) -> Tensor:
    return (~pad).sum(dim=1)


def _freeze_beyond_grid(encoder: ImageEncoder) -> None:
    """Freeze what the grid does not read: a CNN's last stage, which no term reaches without the global contrast."""
    mode, weights = encoder.training, [p for p in encoder.parameters() if p.requires_grad]
    with torch.enable_grad():
        grid = encoder.eval()(torch.zeros(1, 3, encoder.input_size, encoder.input_size)).grid
        gradients = torch.autograd.grad(grid.sum(), weights, allow_unused=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.requires_grad_(gradient is not None)
    encoder.train(mode)
