"""MGCA (Wang et al., NeurIPS 2022): instance-, token- and prototype-level alignment of radiographs and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from mlip.contract import Batch, ImageFeatures, Method, MethodContext, TextFeatures
from mlip.encoders.image import ImageOutput
from mlip.encoders.text import TextOutput, aggregate_words, pool_text
from mlip.errors import UserError
from mlip.losses.contrastive import instance_loss
from mlip.losses.prototypes import swapped_prediction
from mlip.losses.token_alignment import clipped_weights, mgca_local_pairs, token_attention
from mlip.text.reports import plain_words, split_sentences
from mlip.text.tokenisation import TokenBatch

if TYPE_CHECKING:
    import numpy as np

    from mlip.text.reports import Report


CHOICES = {"words": ("written", "plain"), "word_weights": ("aligned", "shifted")}


class MGCA(Method):
    """v, t: image and report; p, w: patches and words; C: prototypes. All in one space of width E, cosines throughout.

    Raises
    ------
    UserError : all components are off, or a choice is unknown.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        p, on = self.params, self.components
        if not any(on.values()):
            raise UserError("all components are off", where="baselines/mgca/method.yaml", fix="switch one on")
        for name, known in CHOICES.items():
            if p[name] not in known:
                raise UserError(f"{name} is {p[name]!r}", where="baselines/mgca/method.yaml", fix=f"one of {known}")
        if self.text_encoder.depth > p["bert_layers"]:
            self.text_encoder.keep_layers(p["bert_layers"])
        image, text, size = self.image_encoder, self.text_encoder, (p["head_hidden"], p["embed_dim"])
        self.head_v = ProjectionHead(image.dim, *size)
        self.head_t = ProjectionHead(text.dim, *size)
        if on["cta"]:
            self.head_p = ProjectionHead(image.grid_dim, *size)
            self.head_w = ProjectionHead(text.dim, *size)
        if on["cpa"]:
            self.prototypes = nn.Linear(p["embed_dim"], p["prototypes"], bias=False)

    def text_view(self, report: Report, rng: np.random.Generator) -> str:
        """The whole report; with ``words: plain`` as the official code leaves it."""
        return plain_words(report.sentences) if self.params["words"] == "plain" else report.text

    def represent(self, batch: Batch) -> dict[str, Tensor]:
        """``image`` v and ``text`` t [B, E]; of the token alignment, which compares nothing with other pairs, its two losses of
        each pair, ``cta_words`` and ``cta_patches`` [B]."""
        p, on = self.params, self.components
        image = self.image_encoder(batch.images, need_attention=on["cta"] and self.image_encoder.kind == "vit")
        text = self.text_encoder(batch.tokens, need_attention=on["cta"])
        v, t = self.head_v(image.pooled), self.head_t(pool_text(text, batch.tokens, p["text_pooling"]))
        found = {"image": v, "text": t}
        if on["cta"]:
            found["cta_words"], found["cta_patches"] = self._token_alignment(image, text, batch.tokens)
        return found

    def objective(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Terms ``ita``, ``cta``, ``cpa`` (those on)."""
        terms = self.pair_terms(representations["image"], representations["text"], batch)
        if self.components["cta"]:
            terms["cta"] = representations["cta_words"].mean() + representations["cta_patches"].mean()
        return terms

    def pair_terms(self, image: Tensor, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Terms ``ita``, ``cpa`` (those on)."""
        p, on, terms = self.params, self.components, {}
        if on["ita"]:
            terms["ita"] = instance_loss(image, text, p["temperature_global"])
        if on["cpa"]:
            settings = (p["sinkhorn_epsilon"], p["sinkhorn_iterations"], p["temperature_prototype"])
            terms["cpa"] = swapped_prediction(image, text, self.prototypes.weight, *settings)
        return terms

    def loss_weights(self) -> dict[str, float]:
        return {name: float(self.params[f"weight_{name}"]) for name, on in self.components.items() if on}

    def on_backward(self, batch: Batch) -> None:
        """Keep the prototypes still during the first epochs (``freeze_prototypes_epochs``)."""
        if self.components["cpa"] and batch.epoch < self.params["freeze_prototypes_epochs"]:
            self.prototypes.weight.grad = None  # not zero: AdamW would still decay it

    def _token_alignment(self, image: ImageOutput, text: TextOutput, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        tokens = _with_sep(tokens)
        words, pad = aggregate_words(text.hidden, tokens)
        assert text.attention is not None
        attention = text.attention
        if self.params["word_weights"] == "shifted":  # [SEP] gets the padding's, which is 0
            attention = functional.pad(attention[:, 1:], (0, 1))
        word_weights = clipped_weights(aggregate_words(attention, tokens)[0])
        patches = image.grid.flatten(1, 2)
        patch_weights = None
        if image.attention is not None:  # ViT: how much the class token looks at each patch
            patch_weights = clipped_weights(image.attention.mean(dim=1)[:, 0, -patches.shape[1] :])
        return mgca_local_pairs(
            self.head_p(patches),
            self.head_w(words),
            pad,
            word_weights,
            patch_weights,
            self.params["temperature_local"],
            "resnet" if self.image_encoder.kind == "cnn" else "vit",
        )

    def encode_image(self, images: Tensor) -> ImageFeatures:
        image = self.image_encoder(images)
        return ImageFeatures(image.pooled, image.grid, functional.normalize(self.head_v(image.pooled), dim=-1))

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        """``local`` holds the words [B, W, E] where the token component is on."""
        tokens = self._tokens(texts)
        text = self.text_encoder(tokens)
        joint = functional.normalize(self.head_t(pool_text(text, tokens, self.params["text_pooling"])), dim=-1)
        if not self.components["cta"]:
            return TextFeatures(joint)
        words, pad = aggregate_words(text.hidden, _with_sep(tokens))
        return TextFeatures(joint, functional.normalize(self.head_w(words), dim=-1), pad)

    def _tokens(self, texts: Sequence[str]) -> TokenBatch:
        """Texts of others, seen as the training saw reports."""
        if self.params["words"] == "plain":
            texts = [plain_words(split_sentences(text)) for text in texts]
        return self.tokenizer(texts).to(self.device)

    def maps(self, images: Tensor, prompt: str) -> dict[str, Tensor]:
        """``word attention``: mean over the prompt's words of the patches that CTA has them attend to."""
        if not self.components["cta"]:
            return {}
        tokens = self._tokens([prompt])
        words, pad = aggregate_words(self.text_encoder(tokens).hidden, tokens)  # [SEP] says nothing of the prompt
        grid = self.image_encoder(images).grid
        words, pad = self.head_w(words).expand(len(images), -1, -1), pad.expand(len(images), -1)
        attention = token_attention(self.head_p(grid.flatten(1, 2)), words, pad, self.params["temperature_local"])
        return {"word attention": attention.view(grid.shape[:3])}


class ProjectionHead(nn.Module):
    """Linear-BN-ReLU-Linear-BN(affine=False) on the last axis; the same layers as the 1x1 convolutions for tokens."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        first, last = nn.BatchNorm1d(hidden), nn.BatchNorm1d(out, affine=False)
        self.layers = nn.Sequential(nn.Linear(dim, hidden), first, nn.ReLU(), nn.Linear(hidden, out), last)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., E], not normalised; every position of the batch counts in the statistics, as officially."""
        return self.layers(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def _with_sep(tokens: TokenBatch) -> TokenBatch:
    """The closing [SEP] as one more word, as in the official token aggregation; [CLS] stays out."""
    sep = tokens.attention_mask.sum(dim=1, keepdim=True) - 1
    count = tokens.word_ids.amax(dim=1, keepdim=True) + 1
    words = tokens.words + 1 if tokens.words else 0
    return replace(tokens, word_ids=tokens.word_ids.scatter(1, sep, count), words=words)
