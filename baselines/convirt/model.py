"""ConVIRT (Zhang et al., MLHC 2022): asymmetric contrast of a radiograph with one sentence of its report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip.contract import Batch, ImageFeatures, Method, MethodContext, TextFeatures
from mlip.errors import UserError
from mlip.losses.contrastive import convirt_loss
from mlip.text.reports import join_sentences
from mlip.text.tokenisation import TokenBatch

if TYPE_CHECKING:
    import numpy as np

    from mlip.text.reports import Report

POOLINGS = ("max", "mean", "cls")


class ConVIRT(Method):
    """v = g_v(h_v), u = g_u(h_u), with h the encoders' features and g a two-layer perceptron of each modality.

    Raises
    ------
    UserError : ``text_pooling`` is unknown, or more BERT layers are to be frozen than there are.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        p, where = self.params, "baselines/convirt/method.yaml"
        if p["text_pooling"] not in POOLINGS:
            raise UserError(f"text_pooling is {p['text_pooling']!r}", where=where, fix=f"one of {POOLINGS}")
        if not 0 <= p["frozen_layers"] <= self.text_encoder.depth:
            problem = f"cannot freeze {p['frozen_layers']} of {self.text_encoder.depth} BERT layers"
            raise UserError(problem, where=where, fix="lower frozen_layers in this recipe")
        self.head_v = _perceptron(self.image_encoder.dim, p["embed_dim"], p["centred_heads"])
        self.head_u = _perceptron(self.text_encoder.dim, p["embed_dim"], p["centred_heads"])
        if p["frozen_layers"]:
            bert: Any = self.text_encoder.model
            for module in (bert.embeddings, *bert.encoder.layer[: p["frozen_layers"]]):
                module.requires_grad_(False)

    def text_view(self, report: Report, rng: np.random.Generator) -> str:
        """One uniformly sampled sentence of the report; all of it where ``full_report`` is set."""
        if self.params["full_report"] or not report.sentences:
            return report.text
        return join_sentences([report.sentences[rng.integers(len(report.sentences))]])

    def represent(self, batch: Batch) -> dict[str, Tensor]:
        """``image`` v and ``text`` u: [B, E]."""
        v = self.head_v(self.image_encoder(batch.images).pooled)
        return {"image": v, "text": self.head_u(self._pool(batch.tokens))}

    def objective(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The term ``contrast``: lambda l(v -> u) + (1 - lambda) l(u -> v)."""
        return self.pair_terms(representations["image"], representations["text"], batch)

    def pair_terms(self, image: Tensor, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The contrast, which is all there is."""
        return {"contrast": convirt_loss(image, text, self.params["temperature"], self.params["image_to_text_weight"])}

    def _pool(self, tokens: TokenBatch) -> Tensor:
        """h_u [B, D] from all pieces that are no padding, [CLS] and [SEP] with them."""
        text = self.text_encoder(tokens)
        if self.params["text_pooling"] == "cls":
            return text.cls
        present = tokens.attention_mask.bool().unsqueeze(2)
        if self.params["text_pooling"] == "max":
            return text.hidden.masked_fill(~present, -torch.inf).amax(dim=1)
        return (text.hidden * present).sum(dim=1) / present.sum(dim=1)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        image = self.image_encoder(images)
        return ImageFeatures(image.pooled, image.grid, functional.normalize(self.head_v(image.pooled), dim=-1))

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        tokens = self.tokenizer(texts).to(self.device)
        return TextFeatures(functional.normalize(self.head_u(self._pool(tokens)), dim=-1))


def _perceptron(dim: int, out: int, centred: bool) -> nn.Sequential:
    """Linear-ReLU-Linear with a hidden layer as wide as the encoder; ``centred`` adds a batch norm without weights."""
    last = [nn.BatchNorm1d(out, affine=False)] if centred else []
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out), *last)
