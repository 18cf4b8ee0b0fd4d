"""The knowledge graph: entities that reports may name, and typed relations between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Kind = Literal["finding", "statement", "device", "structure", "class"]  # class: an ancestor no report is linked to
RELATIONS = ("is_a", "part_of", "located_in")
GAP = "~"  # in a phrase: up to four filler words ("is", "mildly", ...) may stand here


@dataclass(frozen=True)
class Entity:
    """A node. ``id`` is that of its ontology (``HP:0002202``, ``C0032227``) or our own (``CXR:heart``)."""

    id: str
    name: str
    kind: Kind
    aliases: tuple[str, ...] = ()  # phrases that name it, best first
    normal: tuple[str, ...] = ()  # phrases that say it is absent: "heart size ~ normal"
    observation: str | None = None  # the CheXpert observation it is, where it is one


@dataclass
class Graph:
    """Entities and triples (head, relation, tail) of indices into ``entities`` and ``relations``."""

    entities: list[Entity]
    triples: list[tuple[int, int, int]]
    relations: list[str] = field(default_factory=lambda: list(RELATIONS))

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each entity by id."""
        return {entity.id: i for i, entity in enumerate(self.entities)}

    @cached_property
    def parents(self) -> list[list[int]]:
        """Direct is_a parents of each entity, in the order of the triples."""
        found: list[list[int]] = [[] for _ in self.entities]
        for head, relation, tail in self.triples:
            if self.relations[relation] == "is_a":
                found[head].append(tail)
        return found

    @cached_property
    def observations(self) -> list[str | None]:
        """The CheXpert observation of each entity: its own, or that of its nearest ancestor through is_a."""
        return [self._observation(i) for i in range(len(self.entities))]

    def _observation(self, entity: int) -> str | None:
        level, seen = [entity], {entity}
        while level:
            for i in level:
                if self.entities[i].observation:
                    return self.entities[i].observation
            level = [p for i in level for p in self.parents[i] if p not in seen]
            seen.update(level)
        return None


def build_graph(entities: Iterable[Entity], facts: Iterable[tuple[str, str, str]]) -> Graph:
    """A graph from entities (the first of an id counts) and facts (head id, relation, tail id).

    Facts about unknown entities, repeated facts and facts of an entity about itself are left out. Entities are sorted by
    id, triples too, so that the same knowledge always has the same numbers.
    """
    unique: dict[str, Entity] = {}
    for entity in entities:
        unique.setdefault(entity.id, entity)
    ordered = [unique[key] for key in sorted(unique)]
    index = {entity.id: i for i, entity in enumerate(ordered)}
    triples = {(index[h], RELATIONS.index(r), index[t]) for h, r, t in facts if h in index and t in index and h != t}
    return Graph(ordered, sorted(triples))
