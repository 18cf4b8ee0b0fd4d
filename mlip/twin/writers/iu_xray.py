"""Indiana University chest X-rays (Open-i): one XML file per report, PNG films that it names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import cv2

from mlip.seeding import generator
from mlip.twin import phrases
from mlip.twin.findings import Plan
from mlip.twin.hospital import hospital as hospital_named
from mlip.twin.patients import make_patient
from mlip.twin.radiograph import Film
from mlip.twin.report import Sentence, write_report
from mlip.twin.writers._films import Job, sentence_truth, take_films, whole_folder, write_image, write_truth

LAYOUT = "Indiana University chest X-rays (Open-i, NLMCXR)"
_TITLE = "Indiana University Chest X-ray Collection"
# Films per report: some reports have none, most have two; their mean is the collection's, 7,470 films of 3,955 reports.
_FILMS, _SHARES = (0, 1, 2, 3), (0.02, 0.12, 0.81, 0.05)
# How the collection's coders spell what they find, with MeSH's heading first.
_MESH = {
    "Pneumonia": "Pneumonia",
    "Consolidation": "Consolidation",
    "Pleural Effusion": "Pleural Effusion",
    "Pneumothorax": "Pneumothorax",
    "Cardiomegaly": "Cardiomegaly",
    "Edema": "Pulmonary Edema",
    "Atelectasis": "Pulmonary Atelectasis",
    "Support Devices": "Medical Device",
}


def write(folder: Path, anatomy_path: Path, images: int, hospital: str, size: int, seed: int, workers: int) -> None:
    """Write reports, one per patient, until they name ``images`` films.

    The real second film is mostly a lateral one; the twin has none, so here it is another exposure of the same view.
    ``___`` of the reports is spelt ``XXXX``, as this collection leaves out words. Authors, addresses of files and
    precomputed image features are not written: no person wrote these reports.

    Raises
    ------
    UserError : the hospital is unknown, the anatomies have another size, or an image cannot be written.
    """
    place = hospital_named(hospital)
    jobs: list[Job] = []
    documents: list[Element] = []
    sentences: dict[str, Any] = {}
    while len(jobs) < images:
        index = len(documents)
        patient = make_patient(index, place, seed, "iu_xray", follow_up=False)
        rng = generator(seed, "iu_xray", hospital, index, "file")
        study = patient.studies[0]
        report = write_report(patient, study, generator(seed, "iu_xray", hospital, index, "report"))
        said = tuple(replace(s, text=s.text.replace("___", "XXXX")) for s in report.sentences)
        sex = {"F": "female", "M": "male"}[patient.sex]
        texts = {
            "COMPARISON": str(rng.choice(("None.", "XXXX"))),
            "INDICATION": f"XXXX-year-old {sex} with {rng.choice(phrases.INDICATIONS)}.",
            "FINDINGS": _section(said, "findings"),
            "IMPRESSION": _section(said, "impression"),
        }
        affirmed = {name for name, value in report.labels().items() if value == 1}
        terms = sorted({_term(p) for p in study.plans if p.name in affirmed}) or ["normal"]
        count = min(int(rng.choice(_FILMS, p=_SHARES)), images - len(jobs))
        stem = f"CXR{index + 1}_IM-{int(rng.integers(1, 10_000)):04d}"
        films = [f"{stem}-{k + 1}001" for k in range(count)]
        view = study.views[0]
        documents.append(_document(index + 1, texts, terms, films, view))
        for k, name in enumerate(films):
            path = f"NLMCXR_png/{name}.png"
            names = (seed, "iu_xray", hospital, index, k)
            jobs.append(Job(path, names, hospital, patient.anatomy, study.plans, view, patient.sex))
            sentences[path] = sentence_truth(said)
    with whole_folder(folder) as scratch:
        taken = take_films(scratch, anatomy_path, size, jobs, _save, workers, "iu_xray")
        (scratch / "ecgen-radiology").mkdir()
        for number, document in enumerate(documents, 1):
            ElementTree.indent(document)
            ElementTree.ElementTree(document).write(
                scratch / "ecgen-radiology" / f"{number}.xml", encoding="utf-8", xml_declaration=True
            )
        write_truth(scratch, taken, seed=seed, place=hospital, layout=LAYOUT, sentences=sentences)


def _save(film: Film, job: Job, path: Path) -> None:
    # The distributed files have three equal channels.
    write_image(cv2.cvtColor(film.image, cv2.COLOR_GRAY2BGR), path)


def _section(sentences: tuple[Sentence, ...], name: str) -> str:
    """One section's text, "" where the report lacks it: its element is then empty, as in the collection."""
    return " ".join(f"{s.text}." for s in sentences if s.section == name)


def _term(plan: Plan) -> str:
    """A coder's term for a finding: heading, lobe, side, grade."""
    if plan.name == "Support Devices":
        return _MESH[plan.name]
    heading = _MESH[plan.name] if plan.name != "Lung Lesion" else plan.kind.capitalize()
    parts = (heading, plan.place.removeprefix(plan.side).strip(), plan.side, plan.grade)
    return "/".join(p for p in parts if p)


def _document(number: int, texts: dict[str, str], terms: list[str], films: list[str], view: str) -> Element:
    """A report file's tree, with the elements of the collection's files that a virtual report can fill."""
    root = Element("eCitation")
    SubElement(root, "meta", type="rr")
    SubElement(root, "uId", id=f"CXR{number}")
    SubElement(root, "pmcId", id=str(number))
    SubElement(root, "docSource").text = "CXR"
    SubElement(root, "IUXRId", id=str(number))
    SubElement(root, "articleType").text = "XR"
    SubElement(root, "title").text = _TITLE
    SubElement(root, "specialty").text = "pulmonary diseases"
    SubElement(root, "subset").text = "CXR"
    citation = SubElement(root, "MedlineCitation")
    article = SubElement(citation, "Article", PubModel="Electronic")
    SubElement(article, "ArticleTitle").text = _TITLE
    abstract = SubElement(article, "Abstract")
    for label, text in texts.items():
        SubElement(abstract, "AbstractText", Label=label).text = text
    types = SubElement(article, "PublicationTypeList")
    SubElement(types, "PublicationType").text = "Radiology Report"
    mesh = SubElement(root, "MeSH")
    for term in terms:
        SubElement(mesh, "major").text = term
    for k, name in enumerate(films):
        image = SubElement(root, "parentImage", id=name)
        SubElement(image, "figureId").text = f"F{k + 1}"
        SubElement(image, "caption").text = f"Xray Chest {view}"
        panel = SubElement(image, "panel", type="single")
        SubElement(panel, "imgModality").text = "7"
    return root
