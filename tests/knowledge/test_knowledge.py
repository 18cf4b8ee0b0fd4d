"""The graph, its embeddings, files on disk, and UMLS as the other source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mlip.errors import UserError
from mlip.knowledge.embedding import TransE, distance, embed
from mlip.knowledge.entities import Knowledge, build_knowledge
from mlip.knowledge.graph import RELATIONS, Entity, build_graph
from mlip.knowledge.hpo import chest_graph, read_obo
from mlip.study import KnowledgeConfig

CHEXPERT = ("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices")  # fmt: skip


@pytest.mark.parametrize("name", CHEXPERT)
def test_every_observation_is_an_entity(knowledge: Knowledge, name: str) -> None:
    assert knowledge.finding_of(knowledge.find(name)) == name


@pytest.mark.parametrize(
    ("alias", "observation"),
    [
        ("pleural fluid", "Pleural Effusion"),
        ("enlarged heart", "Cardiomegaly"),
        ("ptx", "Pneumothorax"),
        ("HP:0002202", "Pleural Effusion"),
        ("GGO", "Lung Opacity"),
        ("Aspiration pneumonia", "Pneumonia"),
        ("pulmonary nodule", "Lung Lesion"),
        ("pleural plaque", "Pleural Other"),
        ("pacemaker", "Support Devices"),
        ("Left lower lobe", None),
        ("Emphysema", None),
    ],
)
def test_find_and_finding_of(knowledge: Knowledge, alias: str, observation: str | None) -> None:
    assert knowledge.finding_of(knowledge.find(alias)) == observation
    with pytest.raises(UserError, match="no entity"):
        knowledge.find("left big toe")


def test_graph_holds_hpo_and_our_facts(knowledge: Knowledge) -> None:
    graph = knowledge.graph
    named = {(graph.entities[h].id, graph.relations[r], graph.entities[t].id) for h, r, t in graph.triples}
    assert ("HP:0032177", "is_a", "HP:0031457") in named  # HPO: consolidation is an opacity
    assert ("HP:0002202", "located_in", "CXR:pleura") in named  # ours
    assert ("CXR:lll", "part_of", "CXR:left-lung") in named
    assert "Platelike atelectasis" in graph.entities[graph.index["HP:0033657"]].aliases  # HPO's synonym
    assert len(graph.entities) > 250 and len(set(graph.triples)) == len(graph.triples)
    assert sum(e.id.startswith("HP:") for e in graph.entities) > 200


def test_an_old_ontology_is_named(tmp_path: Path) -> None:
    file = tmp_path / "hp.obo"
    file.write_text(
        'format-version: 1.2\n\n[Term]\nid: HP:1\nname: A\nsynonym: "B \\"b\\"" EXACT []\nis_a: HP:2 ! C\n\n[Term]\nid: HP:3\nname: old\nis_obsolete: true\n',
        encoding="utf-8",
    )
    terms = read_obo(file)
    assert list(terms) == ["HP:1"] and terms["HP:1"].parents == ["HP:2"]
    with pytest.raises(UserError, match=r"hp\.obo: lacks the terms"):
        chest_graph(file)


def test_embeddings_separate_true_from_corrupted(knowledge: Knowledge, rng: np.random.Generator) -> None:
    true = np.array(knowledge.graph.triples)
    false = true.copy()
    rows, side = np.arange(len(true)), rng.choice([0, 2], len(true))
    false[rows, side] = rng.integers(len(knowledge.entities), size=len(true))
    keys = {tuple(t) for t in true}
    false = np.array([t for t in false if tuple(t) not in keys])
    near = distance(knowledge.embeddings, knowledge.relations, true)
    far = distance(knowledge.embeddings, knowledge.relations, false)
    score = roc_auc_score(np.r_[np.zeros(len(near)), np.ones(len(far))], torch.cat([near, far]).numpy())
    print(f"AUROC of corrupted against true triples: {score:.3f}")
    assert score > 0.9
    assert torch.allclose(knowledge.embeddings.norm(dim=1), torch.ones(len(knowledge.entities)), atol=1e-5)
    untrained, relations = embed(knowledge.graph, TransE(dim=32, epochs=0), 1)
    start = torch.cat([distance(untrained, relations, true), distance(untrained, relations, false)]).numpy()
    assert roc_auc_score(np.r_[np.zeros(len(near)), np.ones(len(far))], start) < 0.65  # it is the training that does it


def test_embedding_is_seeded() -> None:
    entities = [Entity(str(i), str(i), "finding") for i in range(12)]
    graph = build_graph(entities, [(str(i), "is_a", str(i // 2)) for i in range(1, 12)])
    one, two, other = (embed(graph, TransE(dim=8, epochs=5), seed)[0] for seed in (3, 3, 4))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert TransE(dim=256).margin == 5.0


def test_save_and_load(knowledge: Knowledge, tmp_path: Path) -> None:
    knowledge.save(tmp_path)
    again = Knowledge.load(tmp_path)
    assert again.entities == knowledge.entities and again.graph.triples == knowledge.graph.triples
    assert torch.equal(again.embeddings, knowledge.embeddings) and again.source == "hpo"
    text = "No effusion. Heart size is mildly enlarged, possible edema."
    assert again.link(text) == knowledge.link(text)
    (tmp_path / "knowledge.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="build the knowledge again"):
        Knowledge.load(tmp_path)


def conso(cui: str, name: str, sab: str = "SNOMEDCT_US", code: str = "1", lat: str = "ENG", ts: str = "P", pref: str = "Y", suppress: str = "N") -> str:  # fmt: skip
    return f"{cui}|{lat}|{ts}|L1|PF|S1|{pref}|A1||M1|D1|{sab}|PT|{code}|{name}|0|{suppress}|256|"


def rel(cui1: str, relation: str, cui2: str, rela: str = "", suppress: str = "N") -> str:
    return f"{cui1}|A1|SCUI|{relation}|{cui2}|A2|SCUI|{rela}|R1||SNOMEDCT_US|SNOMEDCT_US||Y|{suppress}||"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "MRCONSO.RRF").write_text("\n".join([
        conso("C0032227", "Pleural effusion disorder", sab="HPO", code="HP:0002202"),
        conso("C0032227", "Water on the lung", ts="S", pref="N"),
        conso("C0032227", "Derrame pleural", lat="SPA"),
        conso("C0032227", "Obsolete wording", suppress="O"),
        conso("C0018799", "Cardiomegaly"),
        conso("C0032225", "Pleura"),
        conso("C0032226", "Pleural disease group"),
        conso("C0035204", "Disease of respiratory system"),
        conso("C9999999", "Broken toe"),
    ]) + "\n", encoding="utf-8")  # fmt: skip
    (tmp_path / "MRREL.RRF").write_text("\n".join([
        rel("C0032226", "CHD", "C0032227", "isa"),  # the effusion is a pleural disease
        rel("C0032226", "PAR", "C0035204"),  # whose parent is the disease of the respiratory system
        rel("C0032225", "RO", "C0032227", "has_finding_site"),
        rel("C9999999", "CHD", "C0032227", "isa", suppress="O"),
        rel("C0018799", "SY", "C9999999"),
    ]) + "\n", encoding="utf-8")  # fmt: skip
    return tmp_path


def test_umls(release: Path) -> None:
    knowledge = build_knowledge(KnowledgeConfig(source="umls", root=release, dim=8, epochs=1), seed=0)
    graph = knowledge.graph
    effusion = knowledge.find("Pleural Effusion")
    assert graph.entities[effusion].id == "C0032227" and knowledge.finding_of(effusion) == "Pleural Effusion"
    assert "HP:0002202" not in graph.index and "C9999999" not in graph.index
    assert graph.entities[graph.index["C0018799"]].observation == "Cardiomegaly"  # matched by its name
    named = {(graph.entities[h].id, graph.relations[r], graph.entities[t].id) for h, r, t in graph.triples}
    assert ("C0032227", "is_a", "C0032226") in named and ("C0032226", "is_a", "C0035204") in named
    assert ("C0032227", "located_in", "C0032225") in named
    mentions = knowledge.link("No water on the lung. Small effusion. Derrame pleural. Obsolete wording.")
    assert [m.certainty for m in mentions if m.entity == effusion] == [
        "absent",
        "present",
    ]  # English and current names only
    assert set(graph.relations) == set(RELATIONS)


def test_umls_errors(release: Path) -> None:
    with pytest.raises(UserError, match=r"knowledge\.root"):
        build_knowledge(KnowledgeConfig(source="umls"), seed=0)
    (release / "MRREL.RRF").write_text("C1|x|\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"MRREL\.RRF: line 1 has 2 fields, not 16"):
        build_knowledge(KnowledgeConfig(source="umls", root=release), seed=0)
    (release / "MRREL.RRF").unlink()
    with pytest.raises(UserError, match="META"):
        build_knowledge(KnowledgeConfig(source="umls", root=release), seed=0)
