"""Entity embeddings by TransE: h + r is near t for a true triple (Bordes et al., NeurIPS 2013).

At paper size the settings are those of ARL (Chen et al., ACM MM 2022), which embeds UMLS with OpenKE: dim 256, L1, margin
5, 100 batches an epoch, 25 corrupted triples each, Bernoulli corruption, SGD at lr 1, 1000 epochs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mlip.knowledge.graph import Graph
from mlip.seeding import generator


@dataclass(frozen=True)
class TransE:
    """Hyper-parameters; the defaults but ``dim``, ``epochs`` and ``batches`` are ARL's."""

    dim: int = 64
    epochs: int = 100
    batches: int = 10  # ARL: 100, for a graph of a hundred times the size
    negatives: int = 25
    learning_rate: float = 1.0
    margin_at_256: float = 5.0

    @property
    def margin(self) -> float:
        """ARL's margin, scaled: the L1 distance of unit vectors grows with the root of their width."""
        return self.margin_at_256 * (self.dim / 256) ** 0.5


def embed(graph: Graph, settings: TransE, seed: int) -> tuple[Tensor, Tensor]:
    """Unit-length embeddings of the entities [N, d] and relations [R, d], float32.

    Loss (Bordes 2013, eq. 1): mean of max(0, margin + d(h + r, t) - d(h' + r, t')) with d the L1 distance of L2-normalised
    vectors. (h', r, t') replaces the head or the tail; the side is drawn as in Wang et al. 2014 ("bern"): the head with
    probability tph / (tph + hpt) of the relation. Corruptions that are true triples are drawn once more.
    """
    rng = generator(seed, "knowledge", "transe")
    triples = np.array(graph.triples, dtype=np.int64)
    count, relations = len(graph.entities), len(graph.relations)
    entity = torch.from_numpy(_initial(rng, count, settings.dim)).requires_grad_()
    relation = torch.from_numpy(_initial(rng, relations, settings.dim)).requires_grad_()
    if len(triples):
        optimiser = torch.optim.SGD([entity, relation], lr=settings.learning_rate)
        head_share, known = _bernoulli(triples, relations), _keys(triples, count, relations)
        for _ in range(settings.epochs):
            for batch in np.array_split(rng.permutation(len(triples)), min(settings.batches, len(triples))):
                true = triples[batch]
                false = _corrupt(np.repeat(true, settings.negatives, axis=0), head_share, count, known, relations, rng)
                far = distance(entity, relation, false).view(len(true), settings.negatives)
                optimiser.zero_grad()
                (settings.margin + distance(entity, relation, true)[:, None] - far).clamp(min=0).mean().backward()
                optimiser.step()
    return functional.normalize(entity.detach(), dim=1), functional.normalize(relation.detach(), dim=1)


def distance(entity: Tensor, relation: Tensor, triples: np.ndarray) -> Tensor:
    """d(h + r, t) in L1 of the L2-normalised vectors, for triples int64 [T, 3]: [T]."""
    h, r, t = (torch.from_numpy(np.ascontiguousarray(triples[:, i])) for i in range(3))
    entity, relation = functional.normalize(entity, dim=1), functional.normalize(relation, dim=1)
    # functional.embedding: its gradient is several times faster on CPU than that of indexing.
    pick = functional.embedding
    return (pick(h, entity) + pick(r, relation) - pick(t, entity)).abs().sum(dim=1)


def _initial(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    bound = 6 / dim**0.5
    return rng.uniform(-bound, bound, size=(rows, dim)).astype(np.float32)


def _bernoulli(triples: np.ndarray, relations: int) -> np.ndarray:
    """Probability of corrupting the head, by relation: many tails per head make a false head the safer negative."""
    share = np.full(relations, 0.5)
    for r in np.unique(triples[:, 1]):
        rows = triples[triples[:, 1] == r]
        tails_per_head = len(rows) / len(np.unique(rows[:, 0]))
        heads_per_tail = len(rows) / len(np.unique(rows[:, 2]))
        share[r] = tails_per_head / (tails_per_head + heads_per_tail)
    return share


def _corrupt(
    true: np.ndarray, head_share: np.ndarray, count: int, known: np.ndarray, relations: int, rng: np.random.Generator
) -> np.ndarray:
    false = true.copy()
    column = np.where(rng.random(len(true)) < head_share[true[:, 1]], 0, 2)
    rows = np.arange(len(true))
    false[rows, column] = rng.integers(count, size=len(true))
    again = np.flatnonzero(np.isin(_keys(false, count, relations), known))
    false[again, column[again]] = rng.integers(count, size=len(again))
    return false


def _keys(triples: np.ndarray, count: int, relations: int) -> np.ndarray:
    return (triples[:, 0] * relations + triples[:, 1]) * count + triples[:, 2]
