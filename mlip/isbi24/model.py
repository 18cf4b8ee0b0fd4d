"""MLIP of Liu et al. (ISBI 2024), reconstructed. README.md says what the seed states and what is our choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip.contract import Batch, ImageFeatures, Method, MethodContext, TextFeatures
from mlip.encoders.text import aggregate_sentences, pool_text
from mlip.errors import UserError
from mlip.isbi24.integrity import MAX_SCALE, SemanticIntegrity, integrity_contrast
from mlip.isbi24.masking import (
    PatchDecoder,
    encode_visible,
    masked_mean,
    patch_errors,
    patchify,
    random_keep,
    visible_mask,
)
from mlip.isbi24.matching import matched_distances, matching_contrast, transport_distances
from mlip.text.reports import join_sentences
from mlip.text.tokenisation import TokenBatch

if TYPE_CHECKING:
    from mlip.text.reports import Report

WHERE = "mlip/isbi24/method.yaml"
CHOICES = {
    "text_view": ("report", "shuffled"),
    "text_pooling": ("class", "words"),
    "image_pooling": ("patches", "class", "both"),
    "integrity_form": ("maco", "share"),
    "matching_form": ("contrastive", "matched"),
    "solver": ("proximal", "entropic"),
}


class MLIPMaskedLocal(Method):
    """Masked contrast with semantic integrity, patch-sentence matching by optimal transport, masked image prediction.

    Notation as in README.md: V visible patches of P; h encoder tokens; v, t global embeddings; s sentences; phi the
    learnt weight of patch positions.

    Raises
    ------
    UserError : the encoder is no ViT, the components do not fit together, or a parameter names an unknown choice.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        p, on, encoder = self.params, self.components, self.image_encoder
        for key, allowed in CHOICES.items():
            if p[key] not in allowed:
                raise UserError(f"{key} is {p[key]!r}", where=WHERE, fix=f"one of {allowed}")
        if encoder.kind != "vit":
            raise UserError("needs a ViT, whose input it masks", where=WHERE, fix="use the vit encoder")
        if on["reconstruction"] and not on["masking"]:
            raise UserError(
                "reconstruction without masking has nothing to predict", where=WHERE, fix="switch it off too"
            )
        dim, text_dim = p["embed_dim"], self.text_encoder.dim
        self.head_v = _head(encoder.dim, dim, p["centred_heads"])
        self.head_t = _head(text_dim, dim, p["centred_heads"])
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / p["temperature"])))
        if on["integrity"]:
            self.integrity = SemanticIntegrity(encoder.patches, p["integrity_form"])
        if on["matching"]:
            # Without bias: the embedding of a sum of pieces then has the direction of that of their mean.
            self.head_p = nn.Linear(encoder.grid_dim, dim, bias=False)
            self.head_s = nn.Linear(text_dim, dim, bias=False)
        if on["reconstruction"]:
            size = p["decoder_dim"], p["decoder_layers"], p["decoder_heads"]
            prefix = int(encoder.model.num_prefix_tokens)  # type: ignore[arg-type]
            self.decoder = PatchDecoder(encoder.dim, prefix, encoder.patches, 3 * encoder.stride**2, *size)

    def text_view(self, report: Report, rng: np.random.Generator) -> str:
        """The whole report, or with ``text_view: shuffled`` k ~ U{1..n} of its n sentences in random order (MaCo)."""
        if self.params["text_view"] == "report" or not report.sentences:
            return report.text
        order = rng.permutation(len(report.sentences))
        return join_sentences([report.sentences[i] for i in order[: rng.integers(1, len(order) + 1)]])

    # ---- training ---------------------------------------------------------------------------------------------------

    def represent(self, batch: Batch) -> dict[str, Tensor]:
        """``image`` v and ``text`` t [B, E], ``visible`` [B, P]; for the matching ``patches`` [B, K, E], ``sentences`` [B, S, E] and
        ``there`` [B, S]; for the reconstruction the ``error`` of each patch [B, P]."""
        p, on, encoder = self.params, self.components, self.image_encoder
        ratio = p["keep_ratio"] if on["masking"] else 1.0
        keep = batch.draw(lambda rows: random_keep(rows, encoder.patches, ratio, batch.generator))
        keep = keep.to(batch.images.device)
        visible = visible_mask(keep, encoder.patches)
        prefix, patches = encode_visible(encoder, batch.images, keep)
        t, sentences, pad = self._text(batch.tokens)
        v = self._joint(self._pool(prefix[:, 0], patches))
        found = {"image": v, "text": t, "visible": visible}
        if on["matching"]:
            found |= {"patches": self.head_p(patches), "sentences": self.head_s(sentences), "there": ~pad}
        if on["reconstruction"]:
            target = patchify(encoder.resize(batch.images), encoder.stride)
            found["error"] = patch_errors(self.decoder(prefix, patches, keep), target, p["normalise_pixels"])
        return found

    def objective(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Terms ``contrast``, ``matching``, ``reconstruction`` (those on; the contrast always is)."""
        r, on = representations, self.components
        v, t = r["image"], r["text"]
        scale = self.logit_scale.exp()
        sigma = self.integrity(r["visible"]) if on["integrity"] else torch.ones(len(v), device=v.device)
        terms = {"contrast": integrity_contrast(v @ t.T, scale, sigma)}
        if on["matching"]:
            terms["matching"] = self._matching(r["patches"], r["sentences"], ~r["there"])
        if on["reconstruction"]:
            terms["reconstruction"] = masked_mean(r["error"], r["visible"])
        return terms

    def loss_weights(self) -> dict[str, float]:
        """The ``weight_*`` parameters of the terms that are on."""
        terms = [n for n in ("matching", "reconstruction") if self.components[n]]
        return {name: float(self.params[f"weight_{name}"]) for name in ["contrast", *terms]}

    def pair_terms(self, image: Tensor, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The term ``contrast`` as it is without masking: all patches visible, so that all images have one integrity."""
        visible = torch.ones(len(image), self.image_encoder.patches, dtype=torch.bool, device=image.device)
        sigma = self.integrity(visible) if self.components["integrity"] else image.new_ones(len(image))
        return {"contrast": integrity_contrast(image @ text.T, self.logit_scale.exp(), sigma)}

    def on_backward(self, batch: Batch) -> None:
        """Keep the learnt logit scale where it still moves: above CLIP's bound its gradient would be zero for good."""
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(MAX_SCALE) - 1e-3)

    def _pool(self, cls: Tensor, patches: Tensor) -> Tensor:
        """The mean patch token, the class token, or the mean of the two [B, D]."""
        pooling = self.params["image_pooling"]
        pooled = cls if pooling == "class" else patches.mean(dim=1)
        return (pooled + cls) / 2 if pooling == "both" else pooled

    def _joint(self, pooled: Tensor) -> Tensor:
        """v = norm(W_v h)."""
        return functional.normalize(self.head_v(pooled), dim=-1)

    def _text(self, tokens: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """t = norm(W_t class token, or W_t mean word) [B, E]; sentences [B, S, D] as sums of their pieces over the last
        layers, not yet projected; pad mask [B, S]."""
        layers = min(self.params["sentence_layers"], self.text_encoder.depth)
        text = self.text_encoder(tokens, layers=layers)
        t = functional.normalize(self.head_t(pool_text(text, tokens, self.params["text_pooling"])), dim=-1)
        return t, *aggregate_sentences(text.layers.sum(dim=0), tokens, "sum")

    def _matching(self, patches: Tensor, sentences: Tensor, pad: Tensor) -> Tensor:
        p, there = self.params, ~pad.all(dim=1)  # a report cut to nothing has no sentence to match
        patches, sentences = patches[there], sentences[there]
        settings = (p["solver"], p["ipot_beta"], p["entropic_reg"], p["transport_iterations"])
        if p["matching_form"] == "matched":
            return matched_distances(patches, sentences, pad[there], *settings).mean()
        return matching_contrast(
            transport_distances(patches, sentences, pad[there], *settings), p["matching_temperature"]
        )

    def diagnostics(self, batch: Batch) -> dict[str, float]:
        """How far phi is from uniform, and what it makes of random masks."""
        if not (self.components["integrity"] and self.components["masking"]):
            return {}
        patches = self.image_encoder.patches
        keep = random_keep(len(batch.images), patches, self.params["keep_ratio"], batch.generator).to(
            batch.images.device
        )
        sigma = self.integrity(visible_mask(keep, patches))
        return {
            "standard deviation of phi over positions": self.integrity.phi.std().item(),
            "standard deviation of sigma over random masks, of its mean": (sigma.std() / sigma.mean()).item(),
        }

    # ---- features ---------------------------------------------------------------------------------------------------

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Without masking. ``pooled`` is what the contrast reads, before its head; ``grid`` is the encoder's own."""
        image = self.image_encoder(images)
        pooled = self._pool(image.pooled, image.grid.flatten(1, 2))
        return ImageFeatures(pooled, image.grid, self._joint(pooled))

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        """``local`` holds the sentences [B, S, E] where the matching component is on."""
        joint, sentences, pad = self._text(self.tokenizer(texts).to(self.device))
        if not self.components["matching"]:
            return TextFeatures(joint)
        return TextFeatures(joint, functional.normalize(self.head_s(sentences), dim=-1), pad)

    @torch.no_grad()
    def heatmap(self, images: Tensor, text: str) -> Tensor:
        """Where a prompt is seen: cosine of each patch with its mean sentence, [B, 3, H, W] -> [B, h, w] in [-1, 1].

        Raises
        ------
        UserError : the matching component, which trains the local space, is off.
        """
        if not self.components["matching"]:
            raise UserError("has no local space without the matching component", where=WHERE, fix="switch it on")
        features = self.encode_text([text])
        assert features.local is not None and features.local_mask is not None
        query = functional.normalize(features.local[0][~features.local_mask[0]].mean(dim=0), dim=0)
        return functional.normalize(self.head_p(self.image_encoder(images).grid), dim=-1) @ query

    @torch.no_grad()
    def learnt(self) -> dict[str, Tensor]:
        """phi [P]; {} without the integrity component."""
        return {"phi over positions": self.integrity.phi.detach().clone()} if self.components["integrity"] else {}

    def phi_map(self) -> Tensor:
        """The learnt weight of each patch position in image order, [h, w].

        Raises
        ------
        UserError : the integrity component is off.
        """
        if not self.components["integrity"]:
            raise UserError("learns no phi without the integrity component", where=WHERE, fix="switch it on")
        return self.integrity.phi.detach().reshape(self.image_encoder.grid_size, -1).clone()

    def maps(self, images: Tensor, prompt: str) -> dict[str, Tensor]:
        """``patch-prompt cosine`` (the seed's Figure 3b) and ``phi`` (Figure 3a, the same for all images): those learnt."""
        found = {}
        if self.components["matching"]:
            found["patch-prompt cosine"] = self.heatmap(images, prompt)
        if self.components["integrity"]:
            found["phi"] = self.phi_map().expand(len(images), -1, -1)
        return found


def _head(width: int, dim: int, centred: bool) -> nn.Module:
    linear = nn.Linear(width, dim)
    return nn.Sequential(linear, nn.BatchNorm1d(dim, affine=False)) if centred else linear
