"""MLIP of Li et al. (CVPR 2024), reconstructed. README.md says what the seed states and what is our choice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip.contract import Batch, ImageFeatures, Method, MethodContext, TextFeatures, entity_table
from mlip.cvpr24.divergence import DivergenceEncoder, distinct_part, divergence_loss
from mlip.cvpr24.false_negatives import finding_sets, observations_of, overlap_of, soft_info_nce, soft_targets
from mlip.cvpr24.fusion import TuckerFusion
from mlip.cvpr24.knowledge_alignment import (
    EntityEmbeddings,
    Prototypes,
    VocabularyAttention,
    WordKnowledge,
    entity_contrast,
    report_mean,
)
from mlip.cvpr24.proxies import FusionEncoder, draw_negatives, swap_texts
from mlip.cvpr24.word_patch import word_patch_similarity
from mlip.encoders.text import TextOutput, aggregate_words, pool_text
from mlip.errors import UserError
from mlip.losses.contrastive import symmetric_ce
from mlip.losses.prototypes import swapped_prediction
from mlip.losses.token_alignment import clipped_weights, token_attention
from mlip.text.tokenisation import TokenBatch

CHOICES = {
    "divergence_form": ("band", "kl"),
    "alignment": ("knowledge-aware", "two-step", "plain"),
    "text_knowledge": ("linked", "attended"),
    "text_pooling": ("class", "words"),
    "swap_unit": ("sentence", "report"),
}


class ProjectionHead(nn.Sequential):
    """Linear-BN-ReLU-Linear-BN(affine=False), MGCA's head."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__(
            nn.Linear(dim, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out),
            nn.BatchNorm1d(out, affine=False),
        )


class MLIPDivergenceKnowledge(Method):
    """Global contrast with divergence encoders, token-knowledge-patch alignment, knowledge-guided category contrast.

    Notation as in README.md: v, t global image and report embeddings; p patches; w words; u knowledge-aware words;
    k entities; z fused category features. All are of unit length in the joint space of width E.

    Raises
    ------
    UserError : no knowledge was given, no component is on, or a parameter names an unknown choice.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        p, on = self.params, self.components
        for key, allowed in CHOICES.items():
            if p[key] not in allowed:
                raise UserError(f"{key} is {p[key]!r}", where="mlip/cvpr24/method.yaml", fix=f"one of {allowed}")
        if context.knowledge is None:
            raise UserError("needs knowledge", where="mlip/cvpr24/method.yaml", fix="list `knowledge` as a capability")
        if not any(on[key] for key in on if key != "soft_targets"):
            raise UserError("all components are off", where="mlip/cvpr24/method.yaml", fix="switch one on")
        if self.text_encoder.depth > p["bert_layers"]:
            self.text_encoder.keep_layers(p["bert_layers"])
        self.knowledge = context.knowledge
        findings = [self.knowledge.finding_of(k) for k in range(len(self.knowledge.entities))]
        self.observations: Tensor
        self.register_buffer("observations", observations_of(findings), persistent=False)
        self._says = lru_cache(maxsize=100_000)(self._said)
        image_dim, grid_dim, text_dim = self.image_encoder.dim, self.image_encoder.grid_dim, self.text_encoder.dim
        dim, hidden, heads = p["embed_dim"], p["head_hidden"], p["knowledge_heads"]
        embeddings = context.knowledge.embeddings

        self.head_v = ProjectionHead(image_dim, hidden, dim)
        self.head_t = ProjectionHead(text_dim, hidden, dim)
        if on["divergence"]:
            sizes = p["divergence_expansion"], p["divergence_noise"], p["divergence_strength"]
            self.diverge_v, self.diverge_t = DivergenceEncoder(dim, *sizes), DivergenceEncoder(dim, *sizes)
        if on["category"] or (on["local"] and p["alignment"] != "plain"):
            self.entities = EntityEmbeddings(embeddings, dim)
        if on["local"]:
            self.head_p = ProjectionHead(grid_dim, hidden, dim)
            self.head_w = ProjectionHead(text_dim, hidden, dim)
            if p["alignment"] == "knowledge-aware":
                self.word_knowledge = WordKnowledge(dim, heads, p["temperature_knowledge"])
        if on["category"]:
            self.read_v = VocabularyAttention(dim, heads, p["temperature_knowledge"])
            self.read_t = VocabularyAttention(dim, heads, p["temperature_knowledge"])
            self.fuse_v = TuckerFusion(dim, dim, dim, p["tucker_rank"])
            self.fuse_t = TuckerFusion(dim, dim, dim, p["tucker_rank"])
            anchors = round(p["anchored_share"] * p["prototypes"])
            self.prototypes = Prototypes(embeddings, dim, p["prototypes"], anchors)
        if on["itm"] or on["text_swap"]:
            self.fusion = FusionEncoder(text_dim, grid_dim, p["fusion_dim"], p["fusion_layers"], p["fusion_heads"])
        if on["itm"]:
            self.head_itm = nn.Linear(p["fusion_dim"], 2)
        if on["text_swap"]:
            self.head_swap = nn.Linear(p["fusion_dim"], 2)

    # ---- training ---------------------------------------------------------------------------------------------------

    def represent(self, batch: Batch) -> dict[str, Tensor]:
        """``image`` v and ``text`` t [B, E]; for the local term ``patches`` [B, P, E], ``words`` [B, W, E], ``there`` [B, W] and the
        ``weights`` of words [B, W]; for the proxy tasks the encoders' own ``hidden`` [B, L, D] and ``grid`` [B, P, D']."""
        on = self.components
        image = self.image_encoder(batch.images)
        text = self.text_encoder(batch.tokens, need_attention=on["local"])
        v = functional.normalize(self.head_v(image.pooled), dim=-1)
        t = self._text_joint(text, batch.tokens)
        found = {"image": v, "text": t}
        if on["local"]:
            found["patches"] = _project(self.head_p, image.grid.flatten(1, 2))
            found["words"], pad = self._words(text.hidden, batch.tokens)
            found["there"] = ~pad
            if self.params["alignment"] != "two-step":
                assert text.attention is not None
                found["weights"] = clipped_weights(aggregate_words(text.attention, batch.tokens)[0])
        if on["itm"] or on["text_swap"]:
            found |= {"hidden": text.hidden, "grid": image.grid.flatten(1, 2)}
        return found

    def objective(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Terms ``global``, ``augmented``, ``divergence``, ``local``, ``category``, ``itm``, ``text_swap`` (those on)."""
        r, on = representations, self.components
        terms = self.pair_terms(r["image"], r["text"], batch)
        if on["local"]:
            terms["local"] = self._local(r, batch)
        if on["itm"] or on["text_swap"]:
            terms |= self._proxies(r["hidden"], r["grid"], r["image"], r["text"], batch)
        return terms

    def pair_terms(self, image: Tensor, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Terms ``global``, ``augmented``, ``divergence``, ``category`` (those on)."""
        terms = self._global(image, text, batch)
        if self.components["category"]:
            terms["category"] = self._category(image, text, batch.entities)
        return terms

    def loss_weights(self) -> dict[str, float]:
        """The ``weight_*`` parameters of the components that are on."""
        on = dict(self.components) | {"augmented": self.components["divergence"]}
        names = ("global", "augmented", "divergence", "local", "category", "itm", "text_swap")
        return {name: float(self.params[f"weight_{name}"]) for name in names if on[name]}

    def on_backward(self, batch: Batch) -> None:
        """Keep the prototypes still during the first epochs, as MGCA does."""
        if self.components["category"] and batch.epoch < self.params["freeze_prototypes_epochs"]:
            for parameter in self.prototypes.parameters():
                parameter.grad = None

    def _text_joint(self, text: TextOutput, tokens: TokenBatch) -> Tensor:
        """t = norm(head_t(class token, or mean word)): [B, E]."""
        return functional.normalize(self.head_t(pool_text(text, tokens, self.params["text_pooling"])), dim=-1)

    def _said(self, sentence: str) -> dict[str, bool]:
        """Findings that a sentence mentions, and whether it tells (or suspects) or denies them."""
        return {name: how != "absent" for name, how in self.knowledge.findings(sentence).items()}

    def _global(self, v: Tensor, t: Tensor, batch: Batch) -> dict[str, Tensor]:
        """L_itc, the contrast of each modality with the other's counterpart, and "similar yet distinct"."""
        p, terms = self.params, {}
        targets = torch.eye(len(v), device=v.device)
        if self.components["soft_targets"]:
            targets = soft_targets(overlap_of(finding_sets(batch.entities, self.observations), 0.0), p["soft_weight"])

        targets = targets.to(v.dtype)

        def contrast(a: Tensor, b: Tensor) -> Tensor:
            both = [soft_info_nce(x, y, p["temperature_global"], targets) for x, y in ((a, b), (b, a))]
            return both[0] + both[1]

        if self.components["global"]:
            terms["global"] = contrast(v, t)
        if self.components["divergence"]:
            v_aug, t_aug = self.diverge_v(v, batch.generator), self.diverge_t(t, batch.generator)
            terms["augmented"] = contrast(v, t_aug) + contrast(v_aug, t)
            terms["divergence"] = self._distinct(v, v_aug, self.diverge_v, batch) + self._distinct(
                t, t_aug, self.diverge_t, batch
            )
        return terms

    def _distinct(self, x: Tensor, generated: Tensor, encoder: DivergenceEncoder, batch: Batch) -> Tensor:
        """Similar yet distinct from the feature, and with another noise from this counterpart too."""
        p = self.params
        loss = divergence_loss(
            x, generated, p["divergence_form"], p["divergence_low"], p["divergence_high"], p["divergence_slope"]
        )
        x = x.detach()
        other = encoder(x, batch.generator)
        cosine = (distinct_part(x, generated) * distinct_part(x, other)).sum(dim=-1)
        return loss + functional.relu(cosine - p["divergence_repeat"]).mean()

    def _local(self, r: dict[str, Tensor], batch: Batch) -> Tensor:
        """Token-knowledge-patch alignment, in the reading that ``alignment`` names."""
        temperature, patches, words = self.params["temperature_local"], r["patches"], r["words"]
        if self.params["alignment"] == "two-step":
            knowledge, _ = self.entities.of_reports(batch.entities)
            return entity_contrast(knowledge, batch.entities, words, ~r["there"], temperature) + entity_contrast(
                knowledge, batch.entities, patches, None, temperature
            )
        words = self._with_knowledge(words, batch.entities)
        there, back = symmetric_ce(word_patch_similarity(patches, words, r["weights"], temperature) / temperature)
        return there + back

    def _words(self, hidden: Tensor, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        summed, pad = aggregate_words(hidden, tokens)
        return _project(self.head_w, summed, pad), pad

    def _with_knowledge(self, words: Tensor, entities: Tensor) -> Tensor:
        if self.params["alignment"] != "knowledge-aware":
            return words
        return self.word_knowledge(words, *self.entities.of_reports(entities))

    def category_image(self, v: Tensor) -> Tensor:
        """z^v = norm(T_v(v, knowledge read by v)): [B, E] -> [B, E]. It sees the image and the whole vocabulary only."""
        return functional.normalize(self.fuse_v(v, self.read_v(v, self.entities.vocabulary())), dim=-1)

    def category_text(self, t: Tensor, entities: Tensor) -> Tensor:
        """z^t = norm(T_t(t, knowledge of the report)): [B, E], [B, n] -> [B, E]."""
        read = self.read_t(t, self.entities.vocabulary())
        if self.params["text_knowledge"] == "linked":
            read = report_mean(*self.entities.of_reports(entities), fallback=read)
        return functional.normalize(self.fuse_t(t, read), dim=-1)

    def _category(self, v: Tensor, t: Tensor, entities: Tensor) -> Tensor:
        p = self.params
        return swapped_prediction(
            self.category_image(v),
            self.category_text(t, entities),
            self.prototypes(),
            p["sinkhorn_epsilon"],
            p["sinkhorn_iterations"],
            p["temperature_prototype"],
        )

    def _proxies(self, own: Tensor, grid: Tensor, v: Tensor, t: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Image-text matching and text swapping; the true pairs are fused once for both."""
        p, terms, mask = self.params, {}, batch.tokens.attention_mask
        hidden, masks, patches = [own], [mask], [grid]
        if self.components["itm"]:
            same = batch.patients.unsqueeze(0) == batch.patients.unsqueeze(1)
            hardness = p["itm_hardness"] * batch.epoch / max(batch.epochs - 1, 1)
            image_of, text_of = draw_negatives(
                (v @ t.T / p["temperature_global"]).detach(),
                same,
                overlap_of(finding_sets(batch.entities, self.observations), 1.0),
                hardness,
                batch.generator,
            )
            hidden += [own, own[text_of]]
            masks += [mask, mask[text_of]]
            patches += [grid[image_of], grid]
        with self.networks():
            fused = self.fusion(torch.cat(hidden), torch.cat(masks), torch.cat(patches))
        fused = fused.to(v.dtype)
        size = len(v)
        if self.components["itm"]:
            # A row without any negative fell back to itself: it is a match.
            places = torch.arange(size, device=v.device)
            match = torch.cat([torch.ones_like(places), (image_of == places).long(), (text_of == places).long()])
            terms["itm"] = functional.cross_entropy(self.head_itm(fused), match)
        if self.components["text_swap"]:
            index, texts = swap_texts(
                batch.reports, batch.patients, p["swap_unit"], p["swap_probability"], batch.generator, self._says
            )
            swapped = torch.zeros(size, dtype=torch.long, device=v.device)
            seen = fused[:size]
            if index:
                swapped[index] = 1
                tokens = self.tokenizer(texts).to(v.device)
                with self.networks():
                    changed = self.fusion(self.text_encoder(tokens).hidden, tokens.attention_mask, grid[index])
                seen = seen.index_copy(0, torch.tensor(index, device=v.device), changed.to(seen.dtype))
            terms["text_swap"] = functional.cross_entropy(self.head_swap(seen), swapped)
        return terms

    def diagnostics(self, batch: Batch) -> dict[str, float]:
        """Of the divergence encoders and of the image's attention over entities."""
        told: dict[str, float] = {}
        v = functional.normalize(self.head_v(self.image_encoder(batch.images).pooled), dim=-1)
        if self.components["divergence"]:
            first, second = (distinct_part(v, self.diverge_v(v, batch.generator)) for _ in range(2))
            told["cosine of the distinct parts that two noises give"] = (first * second).sum(dim=-1).mean().item()
            told["share of the distinct part that all patients have"] = first.mean(dim=0).square().sum().item()
        if self.components["category"]:
            read = self.read_v(v, self.entities.vocabulary())
            others = (read @ read.T).fill_diagonal_(0).sum() / (len(read) * (len(read) - 1))
            told["cosine of what two images read from the knowledge"] = others.item()
        return told

    def forget_knowledge(self) -> None:
        """All entities, and all prototypes that are tied to them, become their mean."""
        with torch.no_grad():
            if hasattr(self, "entities"):
                self.entities.table.copy_(self.entities.table.mean(dim=0, keepdim=True).expand_as(self.entities.table))
            if self.components["category"] and len(self.prototypes.anchors):
                anchors = self.prototypes.anchors
                anchors.copy_(anchors.mean(dim=0, keepdim=True).expand_as(anchors))

    # ---- features ---------------------------------------------------------------------------------------------------

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """``grid`` holds the encoder's own local features [B, h, w, D']."""
        image = self.image_encoder(images)
        return ImageFeatures(image.pooled, image.grid, functional.normalize(self.head_v(image.pooled), dim=-1))

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        """``local`` holds the knowledge-aware words [B, W, E] where the local component is on."""
        tokens = self.tokenizer(texts).to(self.device)
        text = self.text_encoder(tokens)
        joint = self._text_joint(text, tokens)
        if not self.components["local"]:
            return TextFeatures(joint)
        words, pad = self._words(text.hidden, tokens)
        if self.params["alignment"] == "knowledge-aware":
            words = self._with_knowledge(words, self._link(texts))
        return TextFeatures(joint, words, pad)

    def maps(self, images: Tensor, prompt: str) -> dict[str, Tensor]:
        """``word attention``: mean over the prompt's (knowledge-aware) words of the patches that they attend to.

        In the ``two-step`` reading ``entity attention``, of the entities linked in the prompt; {} where there are none.
        """
        if not self.components["local"]:
            return {}
        if self.params["alignment"] == "two-step":
            entities = self._link([prompt])
            name, (tokens, pad) = "entity attention", self.entities.of_reports(entities)
            if pad.all():
                return {}
        else:
            text = self.encode_text([prompt])
            assert text.local is not None and text.local_mask is not None
            name, tokens, pad = "word attention", text.local, text.local_mask
        grid = self.image_encoder(images).grid
        tokens, pad = tokens.expand(len(images), -1, -1), pad.expand(len(images), -1)
        attention = token_attention(
            _project(self.head_p, grid.flatten(1, 2)), tokens, pad, self.params["temperature_local"]
        )
        return {name: attention.view(grid.shape[:3])}

    def _link(self, texts: Sequence[str]) -> Tensor:
        return entity_table([self.knowledge.affirmed(text) for text in texts]).to(self.device)


def _project(head: nn.Module, tokens: Tensor, pad: Tensor | None = None) -> Tensor:
    """[B, N, D] -> [B, N, E] of unit length; padding is zero and takes no part in the batch norm's statistics."""
    if pad is None:
        return functional.normalize(head(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2]), dim=-1)
    out = functional.normalize(head(tokens[~pad]), dim=-1)
    return out.new_zeros(*pad.shape, out.shape[-1]).masked_scatter(~pad.unsqueeze(2), out)
