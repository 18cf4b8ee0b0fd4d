"""Domain knowledge in the two modalities: entity embeddings, who may attend to which of them, and what is aligned.

The text side may see the entities of its own report. The image side may only see the whole vocabulary: if it were
handed the entities of the paired report, the category-level contrast could be solved without looking at the image.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional

from mlip.errors import UserError
from mlip.losses.contrastive import symmetric_ce
from mlip.seeding import seed_for


class EntityEmbeddings(nn.Module):
    """Frozen entity embeddings of the knowledge graph, projected by a trainable ``W_k``: ``k_c = norm(W_k (e_c - mean e))``.

    Centred and without bias: what all entities have in common tells nothing, and would drown the rest.
    """

    def __init__(self, embeddings: Tensor, dim: int) -> None:
        super().__init__()
        self.table: Tensor
        unit = functional.normalize(embeddings.detach().float(), dim=-1)
        self.register_buffer("table", functional.normalize(unit - unit.mean(dim=0), dim=-1))
        self.project = nn.Linear(embeddings.shape[1], dim, bias=False)

    def vocabulary(self) -> Tensor:
        """All entities: [N, dim] of unit length."""
        return functional.normalize(self.project(self.table), dim=-1)

    def of_reports(self, entities: Tensor) -> tuple[Tensor, Tensor]:
        """[B, n] indices with -1 = padding -> ([B, n, dim] of unit length, [B, n] bool with True = padding)."""
        pad = entities < 0
        return self.vocabulary()[entities.clamp_min(0)], pad


class CosineAttention(nn.Module):
    """Attention by the cosine of queries and keys over a temperature; what is read has unit length.

    With a dot product over sqrt(d), inputs of unit length give logits near zero: the weights stayed uniform over the 321
    entities through a whole training, and all queries read the same.
    """

    def __init__(self, dim: int, heads: int, temperature: float) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"{dim} is no multiple of {heads} heads", where="mlip/cvpr24/method.yaml", fix="change one")
        self.heads, self.temperature = heads, temperature
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, pad: Tensor | None = None) -> Tensor:
        """[B, M, dim], [B or 1, N, dim], [B, N] (True = padding; no row all True) -> [B, M, dim] of unit length."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
        logits = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(2, 3) / self.temperature
        if pad is not None:
            logits = logits.masked_fill(pad[:, None, None], torch.finfo(logits.dtype).min)
        return functional.normalize(self.out((logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)), dim=-1)


class WordKnowledge(nn.Module):
    """Knowledge-aware words ``u = norm(w + CrossAttn(Q=w, K=V=entities of the report))``; u = w without entities."""

    def __init__(self, dim: int, heads: int, temperature: float) -> None:
        super().__init__()
        self.attention = CosineAttention(dim, heads, temperature)

    def forward(self, words: Tensor, knowledge: Tensor, pad: Tensor) -> Tensor:
        """[B, W, dim] of unit length, [B, n, dim], [B, n] -> [B, W, dim] of unit length."""
        absent = pad.all(dim=1)
        # A softmax over nothing is NaN: reports without entities attend to the padding, and the result is dropped.
        read = self.attention(words, knowledge, pad & ~absent.unsqueeze(1))
        return functional.normalize(words + read.masked_fill(absent.view(-1, 1, 1), 0), dim=-1)


class VocabularyAttention(nn.Module):
    """What a global feature reads from the whole entity vocabulary; it sees the vocabulary and no report."""

    def __init__(self, dim: int, heads: int, temperature: float) -> None:
        super().__init__()
        self.attention = CosineAttention(dim, heads, temperature)

    def forward(self, features: Tensor, vocabulary: Tensor) -> Tensor:
        """[B, dim], [N, dim] -> [B, dim] of unit length."""
        return self.attention(features.unsqueeze(1), vocabulary.unsqueeze(0)).squeeze(1)


def report_mean(knowledge: Tensor, pad: Tensor, fallback: Tensor) -> Tensor:
    """Mean entity of each report at unit length, ``fallback`` where it has none: [B, n, dim], [B, n], [B, dim] -> [B, dim]."""
    total = functional.normalize(knowledge.masked_fill(pad.unsqueeze(2), 0).sum(dim=1), dim=-1)
    return torch.where(pad.all(dim=1, keepdim=True), fallback, total)


def entity_contrast(
    knowledge: Tensor, entities: Tensor, keys: Tensor, key_pad: Tensor | None, temperature: float
) -> Tensor:
    """Contrast of each report's entities with what they attend to among ``keys`` (its words, or its image's patches).

    ``c = norm(sum_j softmax_j(k . key_j / t) key_j)``; symmetric InfoNCE of (k, c) over all entities of the batch. The
    same entity in another report is no negative. Zero where no report of the batch has an entity.

    Parameters
    ----------
    knowledge : [B, n, E]; entities : [B, n] with -1 = padding; keys : [B, M, E]; key_pad : [B, M], True = padding.
    """
    present = entities >= 0
    if not present.any():
        return (knowledge.sum() + keys.sum()) * 0
    queries, keys = functional.normalize(knowledge, dim=-1), functional.normalize(keys, dim=-1)
    affinity = queries @ keys.transpose(1, 2) / temperature
    if key_pad is not None:
        affinity = affinity.masked_fill(key_pad.unsqueeze(1), torch.finfo(affinity.dtype).min)
    context = functional.normalize(affinity.softmax(dim=2) @ keys, dim=-1)
    identity = entities[present]
    logits = queries[present] @ context[present].T / temperature
    twins = (identity.unsqueeze(0) == identity.unsqueeze(1)).fill_diagonal_(False)
    logits = logits.masked_fill(twins, torch.finfo(logits.dtype).min)
    there, back = symmetric_ce(logits)
    return (there + back) / 2


class Prototypes(nn.Module):
    """K category prototypes, of which ``anchors`` are tied to the knowledge: ``norm(W a_c)``; the rest are free.

    The anchors a_c are the entity embeddings themselves, or their k-means centres where there are more entities.
    """

    def __init__(self, embeddings: Tensor, dim: int, count: int, anchors: int) -> None:
        super().__init__()
        self.anchors: Tensor
        centres = _centres(functional.normalize(embeddings.detach().float(), dim=-1), min(anchors, count))
        self.register_buffer("anchors", centres)
        self.project = nn.Linear(embeddings.shape[1], dim, bias=False) if len(centres) else None
        free = count - len(centres)
        self.free = nn.Parameter(functional.normalize(torch.randn(free, dim), dim=-1)) if free else None

    def forward(self) -> Tensor:
        """[K, dim] of unit length, the anchored ones first."""
        parts = []
        if self.project is not None:
            parts.append(self.project(self.anchors))
        if self.free is not None:
            parts.append(self.free)
        return functional.normalize(torch.cat(parts), dim=-1)


def _centres(embeddings: Tensor, count: int) -> Tensor:
    if count >= len(embeddings):
        return embeddings.clone()
    if count == 0:
        return embeddings[:0].clone()
    fit = KMeans(count, n_init=1, random_state=seed_for("cvpr24", "anchors")).fit(embeddings.cpu().numpy())
    centres = torch.from_numpy(fit.cluster_centers_.astype(np.float32))
    return functional.normalize(centres, dim=-1)
