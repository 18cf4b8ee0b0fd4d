"""The same knowledge under UMLS concepts, for holders of the UMLS licence (MRCONSO.RRF and MRREL.RRF of a release).

Every entity of the chest graph is matched to a concept (by its HPO code, else by its exact name) and takes over that
concept's CUI and English synonyms; the concepts' own parents and finding sites, two steps up, join the graph with their
relations. Entities without a concept keep our id. Column layouts: UMLS Reference Manual, chapter 3 (NCBI NBK9685).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mlip.errors import UserError
from mlip.knowledge.graph import Entity, Graph, build_graph
from mlip.knowledge.words import normalise

CONSO = dict(CUI=0, LAT=1, TS=2, ISPREF=6, SAB=11, TTY=12, CODE=13, STR=14, SUPPRESS=16)
REL = dict(CUI1=0, REL=3, CUI2=4, RELA=7, SUPPRESS=14)
CONSO_COLUMNS, REL_COLUMNS = 18, 16
STEPS_UP = 2
MAX_WORDS = 6  # longer strings are classification titles, not what a report says


def umls_graph(root: Path, base: Graph) -> Graph:
    """The chest graph ``base`` rewritten to UMLS concepts and extended by UMLS.

    Parameters
    ----------
    root : folder of the release's RRF files (``META``).
    base : :func:`mlip.knowledge.hpo.chest_graph`.

    Raises
    ------
    UserError : a file is missing, has another column layout, or names none of the base entities in English.
    """
    conso, rel = Path(root) / "MRCONSO.RRF", Path(root) / "MRREL.RRF"
    concept = _match(conso, base)
    if not concept:
        raise UserError(
            "names none of the chest entities in English", where=conso, fix="use a release with HPO or SNOMED CT (US)"
        )
    edges = list(_edges(rel))
    up: dict[str, set[str]] = defaultdict(set)
    for head, _, tail in edges:
        up[head].add(tail)
    kept, level = set(concept.values()), set(concept.values())
    for _ in range(STEPS_UP):
        level = set().union(*(up[c] for c in level)) - kept
        kept |= level
    names = _names(conso, kept)

    key = {entity.id: concept.get(entity.id, entity.id) for entity in base.entities}
    entities = [_renamed(entity, key[entity.id], names) for entity in _own_names_first(base)]
    entities += [Entity(cui, names[cui][0], "class") for cui in sorted(kept & set(names))]
    facts = [(key[base.entities[h].id], base.relations[r], key[base.entities[t].id]) for h, r, t in base.triples]
    return build_graph(entities, [*facts, *(e for e in edges if e[0] in kept and e[2] in kept)])


def _own_names_first(base: Graph) -> list[Entity]:
    """Base entities, observations before others: where two share a concept, the observation keeps its role."""
    return sorted(base.entities, key=lambda e: (e.observation is None, e.kind == "class"))


def _renamed(entity: Entity, cui: str, names: dict[str, list[str]]) -> Entity:
    synonyms = names.get(cui, []) if entity.kind != "class" else []
    usable = [s for s in synonyms if len(s) >= 2 and len(s.split()) <= MAX_WORDS and not set(s) & set(",()[]/;")]
    aliases = tuple(dict.fromkeys((*entity.aliases, *usable)))
    return Entity(cui, entity.name, entity.kind, aliases, entity.normal, entity.observation)


def _match(path: Path, base: Graph) -> dict[str, str]:
    """Entity id -> CUI: by HPO code first, else by its name, the first alias."""
    by_name: dict[tuple[str, ...], str] = {}
    for entity in base.entities:
        by_name.setdefault(tuple(normalise(entity.name)), entity.id)
    coded: dict[str, str] = {}
    named: dict[str, str] = {}
    for row in _conso(path):
        if row[CONSO["SAB"]] == "HPO" and row[CONSO["CODE"]] in base.index:
            coded.setdefault(row[CONSO["CODE"]], row[CONSO["CUI"]])
        elif len(row[CONSO["STR"]]) < 80 and (found := by_name.get(tuple(normalise(row[CONSO["STR"]])))):
            named.setdefault(found, row[CONSO["CUI"]])
    return {**named, **coded}


def _names(path: Path, cuis: set[str]) -> dict[str, list[str]]:
    """English names of concepts, the preferred one (TS = P, ISPREF = Y) first."""
    found: dict[str, list[str]] = {}
    for row in _conso(path):
        if row[CONSO["CUI"]] in cuis:
            names = found.setdefault(row[CONSO["CUI"]], [])
            preferred = row[CONSO["TS"]] == "P" and row[CONSO["ISPREF"]] == "Y"
            names.insert(0 if preferred else len(names), row[CONSO["STR"]])
    return {cui: list(dict.fromkeys(names)) for cui, names in found.items()}


def _conso(path: Path) -> Iterator[list[str]]:
    """Rows of MRCONSO.RRF in English that are not suppressed."""
    for row in _rows(path, CONSO_COLUMNS):
        if row[CONSO["LAT"]] == "ENG" and row[CONSO["SUPPRESS"]] == "N":
            yield row


def _edges(path: Path) -> Iterator[tuple[str, str, str]]:
    """Facts (head, relation, tail) of MRREL.RRF among is_a, part_of and located_in.

    REL and RELA say what the SECOND concept is to the first: CHD or ``isa`` reads "CUI2 is a CUI1".
    """
    forward = {"isa": "is_a", "part_of": "part_of", "has_finding_site": "located_in", "has_location": "located_in"}
    inverse = {
        "inverse_isa": "is_a",
        "has_part": "part_of",
        "finding_site_of": "located_in",
        "location_of": "located_in",
    }
    for row in _rows(path, REL_COLUMNS):
        if row[REL["SUPPRESS"]] != "N" or row[REL["CUI1"]] == row[REL["CUI2"]]:
            continue
        first, second, rela = row[REL["CUI1"]], row[REL["CUI2"]], row[REL["RELA"]]
        if rela in forward:
            yield second, forward[rela], first
        elif rela in inverse:
            yield first, inverse[rela], second
        elif not rela and row[REL["REL"]] == "CHD":
            yield second, "is_a", first
        elif not rela and row[REL["REL"]] == "PAR":
            yield first, "is_a", second


def _rows(path: Path, columns: int) -> Iterator[list[str]]:
    if not path.is_file():
        raise UserError(
            "there is no such UMLS file", where=path, fix="point knowledge.root at the META folder of a release"
        )
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            row = line.rstrip("\n").split("|")
            if len(row) != columns + 1:  # every field is closed by a bar
                problem = f"line {number} has {len(row) - 1} fields, not {columns}"
                raise UserError(problem, where=path, fix="give the unchanged file of a release (Rich Release Format)")
            yield row
