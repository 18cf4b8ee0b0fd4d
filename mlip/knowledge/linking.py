"""Entity linking: longest dictionary match over normalised words, with the certainty of each mention.

Certainty follows NegEx (Chapman et al. 2001) and ConText (Harkema et al. 2009): trigger phrases open a scope forwards or
backwards that ends at the sentence's end or at a terminating word. The trigger lists are ours (``scopes.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mlip.knowledge import scopes
from mlip.knowledge.graph import GAP, Graph
from mlip.knowledge.scopes import Certainty, Hit
from mlip.knowledge.words import TOKEN, lemma, normalise
from mlip.text.reports import sentence_spans

Trie = dict[str, Any]  # word -> Trie; END -> what a phrase ending here means
END = ""
CACHED_SENTENCES = 200_000

_FILLERS = scopes.words(
    """is are was were be been being the a an at in of to and or has have had mild mildly moderate moderately severe severely
    marked markedly slight slightly minimal minimally borderline stable stably again remains remain appears appear overall
    grossly still also within left right bilateral bilaterally small large massively massive significantly significant
    persistently unchanged somewhat top quite very globally diffusely normally otherwise size now"""
)

_CONTINUES = scopes.words(
    "to of in that which suggest suggesting suggestive concerning consistent compatible is are such like"
)


@dataclass(frozen=True)
class Mention:
    """An entity named in text[start:end]."""

    entity: int
    start: int
    end: int
    certainty: Certainty


class Linker:
    """Finds the entities of a graph in report text.

    An anatomical structure has no certainty of its own: it takes that of the nearest finding in its sentence, so that
    "no effusion at the left base" does not affirm the base.
    """

    def __init__(self, graph: Graph, shared_normal: list[tuple[str, list[str]]] | None = None) -> None:
        self.graph = graph
        self.places = {i for i, e in enumerate(graph.entities) if e.kind == "structure"}
        self.statements = {i for i, e in enumerate(graph.entities) if e.kind == "statement"}
        self.phrases: Trie = {}
        for i, entity in enumerate(graph.entities):
            if entity.kind != "class":
                for phrase in entity.aliases:
                    self._add(phrase, ((i, None),), keep=True)
        for i, entity in enumerate(graph.entities):
            for phrase in entity.normal:
                self._add(phrase, ((i, "absent"),))
        for phrase, ids in shared_normal or []:
            known = [graph.index[key] for key in ids if key in graph.index]
            self._add(phrase, tuple((i, "absent") for i in known))
        self._cache: dict[str, tuple[Mention, ...]] = {}  # many sentences are stock phrases

    def link(self, text: str) -> list[Mention]:
        """All mentions in the order of the text. Overlapping dictionary matches: the longest, then the leftmost."""
        found: list[Mention] = []
        for start, end in sentence_spans(text):
            sentence = text[start:end]
            mentions = self._cache.get(sentence)
            if mentions is None:
                mentions = self._link_sentence(sentence)
                if len(self._cache) < CACHED_SENTENCES:
                    self._cache[sentence] = mentions
            found += [replace(m, start=m.start + start, end=m.end + start) for m in mentions]
        return found

    def lookup(self, phrase: str) -> int | None:
        """The entity that a whole phrase names, or None."""
        node: Trie = self.phrases
        for word in normalise(phrase):
            if word not in node:
                return None
            node = node[word]
        meanings = node.get(END)
        return meanings[0][0] if meanings and meanings[0][1] is None else None

    def _add(self, phrase: str, meanings: tuple[tuple[int, Certainty | None], ...], keep: bool = False) -> None:
        words = [n for w in phrase.split() for n in ([GAP] if w == GAP else normalise(w))]
        if not words or not meanings:
            return
        node: Trie = self.phrases
        for word in words:
            node = node.setdefault(word, {})
        # A phrase of two entities keeps the one that lists it as its own alias first (ours come before HPO's).
        if not (keep and END in node):
            node[END] = meanings

    def _link_sentence(self, sentence: str) -> tuple[Mention, ...]:
        tokens = [(m.group(), m.start(), m.end()) for m in TOKEN.finditer(sentence.lower())]
        words = [lemma(t[0]) for t in tokens]
        hits = self._hits(words)
        if not hits:
            return ()
        findings = [h for h in hits if h.entity not in self.places]
        scopes.assign(words, findings)
        for hit in hits:
            if hit.entity in self.places:
                nearest = min(
                    findings, key=lambda f: min(abs(f.first - hit.last), abs(f.last - hit.first)), default=None
                )
                hit.certainty = nearest.certainty if nearest else "present"
        return tuple(Mention(h.entity, tokens[h.first][1], tokens[h.last][2], h.certainty) for h in hits)

    def _hits(self, words: list[str]) -> list[Hit]:
        hits, position = [], 0
        while position < len(words):
            last, meanings = self._longest(words, position)
            if any(i in self.statements for i, _ in meanings) and _CONTINUES & set(words[last + 1 : last + 2]):
                last, meanings = position, ()  # "no finding to suggest pneumonia" is no statement of a normal chest
            for entity, fixed in meanings:
                hits.append(Hit(entity, position, last, fixed))
            position = last + 1
        return hits

    def _longest(self, words: list[str], position: int) -> tuple[int, tuple]:
        """(last word, meanings) of the longest phrase that starts at a word; (position, ()) where none does."""
        best: tuple[int, tuple] = (position, ())
        states: list[tuple[Trie, int]] = [(self.phrases, 0)]  # node, and how many fillers were skipped to stay in it
        for i in range(position, len(words)):
            word, following = words[i], []
            for node, skipped in states:
                gap = node if skipped else node.get(GAP)
                for source in (gap, None if skipped else node):
                    if source is not None and word in source:
                        following.append((source[word], 0))
                if gap is not None and word in _FILLERS and skipped < 4:
                    following.append((gap, skipped + 1))
            if not following:
                break
            states = following
            for node, skipped in states:
                if not skipped and END in node:
                    best = (i, node[END])
        return best
