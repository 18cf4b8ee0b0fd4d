"""covid-chestxray-dataset: one table of cases with clinical notes, lung boxes and lung masks."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlip.seeding import generator
from mlip.twin.chest import SIDES
from mlip.twin.findings import Plan
from mlip.twin.hospital import Hospital
from mlip.twin.hospital import hospital as hospital_named
from mlip.twin.patients import Change, Patient, VirtualStudy, patients_until, plan_device, plan_finding
from mlip.twin.radiograph import Film
from mlip.twin.report import Sentence, write_report
from mlip.twin.writers._films import (
    Job,
    box_of,
    save_image,
    sentence_truth,
    take_films,
    whole_folder,
    write_image,
    write_truth,
)

LAYOUT = "COVID-19 image data collection (covid-chestxray-dataset, 2020)"
_COLUMNS = (
    "patientid", "offset", "sex", "age", "finding", "RT_PCR_positive", "survival", "intubated", "intubation_present",
    "went_icu", "in_icu", "needed_supplemental_O2", "extubated", "temperature", "pO2_saturation", "leukocyte_count",
    "neutrophil_count", "lymphocyte_count", "view", "modality", "date", "location", "folder", "filename", "doi", "url",
    "license", "clinical_notes", "other_notes",
)  # fmt: skip
_COVID, _TODO = "Pneumonia/Viral/COVID-19", "todo"
# Pneumonias that mostly keep to one lobe, as the twin draws them. Shares are near the collection's, which is mostly COVID-19.
_FINDINGS = {
    _COVID: 0.54,
    "Pneumonia": 0.10,
    "Pneumonia/Bacterial/Streptococcus": 0.08,
    "Pneumonia/Bacterial/Klebsiella": 0.04,
    "Pneumonia/Bacterial/Legionella": 0.04,
    "No Finding": 0.10,
    _TODO: 0.10,
}
# The first patients show these, so that none is missing however few there are.
_FIRST = (_COVID, "Pneumonia/Bacterial/Streptococcus", "No Finding", _TODO)
_NOTES, _MASKS, _SUPINE = 0.67, 0.6, 0.68  # shares of films with notes and masks, of AP films taken supine
_HISTORIES = (
    "presented with fever and dry cough for {days} days",
    "was admitted with shortness of breath after {days} days of cough and myalgia",
    "came to the emergency department with fever, fatigue and dyspnea",
    "presented with cough, fever and sore throat that had begun {days} days before",
)
_STEPS = {"decreased": -0.25, "unchanged": 0.0, "increased": 0.25}


def write(folder: Path, anatomy_path: Path, images: int, hospital: str, size: int, seed: int, workers: int) -> None:
    """Write ``images`` frontal films of patients who are followed over days.

    A COVID-19 pneumonia shows as faint opacities in the outer lower zones of both lungs, another one as a denser opacity
    of one lobe; it grows, shrinks or stays over a patient's films. ``todo`` films show any of these. Every film has the
    boxes of both lungs, some have a mask of them: the projected lungs of the film's own chest (``Chest.field``). What no
    virtual patient has (survival, laboratory values, links, licences) stays blank, as it often does in the collection.

    Raises
    ------
    UserError : the hospital is unknown, the anatomies have another size, or an image cannot be written.
    """
    place = hospital_named(hospital)
    jobs: list[Job] = []
    rows: list[dict[str, Any]] = []
    sentences: dict[str, Any] = {}
    for patient in patients_until(images, place, seed, "covid_chestxray"):
        rng = generator(seed, "covid_chestxray", hospital, patient.index, "file")
        finding = str(rng.choice(list(_FINDINGS), p=list(_FINDINGS.values())))
        finding = dict(enumerate(_FIRST)).get(patient.index, finding)
        patient = _case(patient, finding, place, rng)
        history = _history(patient, finding, rng)
        for study in patient.studies:
            report = write_report(
                patient, study, generator(seed, "covid_chestxray", hospital, patient.index, study.index, "report")
            )
            said = _noted(report.sentences)
            note = " ".join((history, *(f"{s.text}." for s in said))) if rng.random() < _NOTES else ""
            intubated = any(p.kind == "endotracheal tube" for p in study.plans)
            for k, view in enumerate(study.views):
                suffix = "png" if rng.random() < 0.5 else "jpg"
                name = f"case-{patient.index + 1:04d}-{study.index}-{k}.{suffix}"
                masked = not rows or bool(rng.random() < _MASKS)
                supine = view == "AP" and rng.random() < _SUPINE
                path = f"images/{name}"
                names = (seed, "covid_chestxray", hospital, patient.index, study.index, k)
                jobs.append(Job(path, names, hospital, patient.anatomy, study.plans, view, patient.sex, masked))
                sentences[path] = sentence_truth(said) if note else []
                known = {
                    "patientid": patient.index + 1,
                    "offset": study.days,
                    "sex": patient.sex,
                    "age": patient.age,
                    "finding": finding,
                    "RT_PCR_positive": "Y" if finding == _COVID else "",
                    "intubation_present": "Y" if intubated else "N",
                    "view": "AP Supine" if supine else view,
                    "modality": "X-ray",
                    "date": 2020,
                    "folder": "images",
                    "filename": name,
                    "clinical_notes": note,
                }
                rows.append(dict.fromkeys(_COLUMNS, "") | known)
    with whole_folder(folder) as scratch:
        for name in ("annotations", "masks"):
            (scratch / name).mkdir()
        taken = take_films(scratch, anatomy_path, size, jobs, _save, workers, "covid_chestxray")
        pd.DataFrame(rows, columns=_COLUMNS).to_csv(scratch / "metadata.csv", index=False)
        boxes = [(Path(film.job.path).name, film.rows) for film in taken]
        (scratch / "annotations" / "annotations.json").write_text(
            json.dumps(_coco(boxes, size)) + "\n", encoding="utf-8"
        )
        write_truth(scratch, taken, seed=seed, place=hospital, layout=LAYOUT, sentences=sentences)


def _case(patient: Patient, finding: str, place: Hospital, rng: np.random.Generator) -> Patient:
    """The patient with this finding instead of the hospital's own case mix, over the same studies and views."""
    shown = str(rng.choice((_COVID, "Pneumonia", "No Finding"))) if finding == _TODO else finding
    plans: list[Plan] = []
    if shown == _COVID:
        plans.append(plan_finding("Pneumonia", rng, shift=place.severity, kind="covid"))
    elif shown != "No Finding":
        plan = plan_finding("Pneumonia", rng, shift=place.severity)
        while plan.side == "bilateral":
            plan = plan_finding("Pneumonia", rng, shift=place.severity)
        plans.append(plan)
    if plans and plans[0].severity > 0.65 and rng.random() < 0.4:
        plans.append(plan_device(rng, "endotracheal tube"))
    elif rng.random() < 0.1:
        plans.append(plan_device(rng))
    studies: list[VirtualStudy] = []
    for study in patient.studies:
        changes = tuple(_later(p, rng) for p in studies[-1].plans) if studies else tuple(Change(p, "") for p in plans)
        # Follow-up of pneumonia is a matter of days, not of the months that a clinic's patients come back after.
        studies.append(replace(study, days=study.days // 14 + study.index, changes=changes))
    return replace(patient, studies=tuple(studies))


def _later(plan: Plan, rng: np.random.Generator) -> Change:
    """The finding on the next film. None resolves: the table's finding must stay true of every film."""
    course = "unchanged" if plan.name == "Support Devices" else str(rng.choice(list(_STEPS)))
    severity = float(np.clip(plan.severity + _STEPS[course] * rng.uniform(0.7, 1.2), 0.02, 1))
    return Change(replace(plan, severity=severity), course)


def _history(patient: Patient, finding: str, rng: np.random.Generator) -> str:
    person = {"F": "woman", "M": "man"}[patient.sex]
    text = str(rng.choice(_HISTORIES)).format(days=int(rng.integers(2, 11)))
    # Eight, eleven and eighteen begin with a vowel.
    article = "An" if patient.age in (11, 18) or 80 <= patient.age < 90 else "A"
    test = " RT-PCR was positive for SARS-CoV-2." if finding == _COVID else ""
    return f"{article} {patient.age}-year-old {person} {text}.{test}"


def _noted(sentences: tuple[Sentence, ...]) -> tuple[Sentence, ...]:
    """What a clinical note takes over from the report: its findings, or its impression where it has none."""
    told = [s for s in sentences if s.section == sentences[0].section]
    odd = re.compile(r"\b[Pp]eripheral lower lungs (pneumonia|consolidation|opacity)")
    texts = (odd.sub(r"\1 in the peripheral lower lungs", s.text) for s in told)
    return tuple(replace(s, text=text[0].upper() + text[1:]) for s, text in zip(told, texts, strict=True))


def _save(film: Film, job: Job, path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Write the film, and its mask where ``note`` says so; returns each lung's box."""
    save_image(film, job, path)
    lungs = {side: film.lung(side) for side in SIDES}
    if job.note:
        write_image(
            np.logical_or(*lungs.values()).astype(np.uint8) * 255, path.parent.parent / "masks" / f"{path.stem}.png"
        )
    return {side: box_of(lung) for side, lung in lungs.items()}


def _coco(boxes: list[tuple[str, dict[str, tuple[int, int, int, int]]]], size: int) -> dict[str, Any]:
    """Lung boxes by file name as a COCO annotation; boxes are x, y, width, height in pixels of the film."""
    categories = [
        {"supercategory": "COVID-19 Lungs", "id": i, "name": f"{side.capitalize()} Lung"}
        for i, side in enumerate(SIDES, 1)
    ]
    images = [{"id": i, "file_name": name, "width": size, "height": size} for i, (name, _) in enumerate(boxes, 1)]
    annotations = [
        {
            "id": 2 * image + category,
            "image_id": image + 1,
            "category_id": category + 1,
            "bbox": list(film[side]),
            "area": film[side][2] * film[side][3],
            "iscrowd": 0,
            "segmentation": [],
        }
        for image, (_, film) in enumerate(boxes)
        for category, side in enumerate(SIDES)
    ]
    return {
        "info": {"description": "lung boxes"},
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }
