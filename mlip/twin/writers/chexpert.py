"""CheXpert v1.0: train.csv with a labeller's uncertain and missing values, valid.csv with an expert's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mlip.seeding import generator
from mlip.twin.hospital import hospital as hospital_named
from mlip.twin.patients import CHEXPERT, Patient, VirtualStudy, patients_until, truth_labels
from mlip.twin.report import write_report
from mlip.twin.writers._films import Job, save_image, take_films, whole_folder, write_truth

LAYOUT = "CheXpert v1.0"
# The columns' order in the official files differs from the alphabet.
COLUMNS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


def write(folder: Path, anatomy_path: Path, images: int, hospital: str, size: int, seed: int, workers: int) -> None:
    """Write ``images`` frontal films; 15 % of them, of other patients, form the expert-labelled ``valid`` set.

    Train labels are what a labeller reads out of an (unpublished) report: 1, 0, -1 or blank, so findings that the
    report passes over are missing. Valid labels are what was drawn: 1 or 0.
    """
    place = hospital_named(hospital)
    jobs, rows = [], []
    parts = (("train", images - round(0.15 * images)), ("valid", round(0.15 * images)))
    for part, count in parts:
        for patient in patients_until(count, place, seed, "chexpert", part):
            number = patient.index + 1 + (64540 if part == "valid" else 0)
            for study in patient.studies:
                labels = _labels(patient, study, part, seed, hospital)
                for k, view in enumerate(study.views):
                    path = f"{part}/patient{number:05d}/study{study.index + 1}/view{k + 1}_frontal.jpg"
                    names = (seed, "chexpert", hospital, part, patient.index, study.index, k)
                    jobs.append(Job(path, names, hospital, patient.anatomy, study.plans, view, patient.sex))
                    sex = {"F": "Female", "M": "Male"}[patient.sex]
                    rows.append(
                        (
                            part,
                            {
                                "Path": f"CheXpert-v1.0/{path}",
                                "Sex": sex,
                                "Age": patient.age,
                                "Frontal/Lateral": "Frontal",
                                "AP/PA": view,
                            }
                            | labels,
                        )
                    )
    with whole_folder(folder) as scratch:
        taken = take_films(scratch, anatomy_path, size, jobs, save_image, workers, "chexpert")
        for part, _ in parts:
            pd.DataFrame([r for p, r in rows if p == part]).to_csv(scratch / f"{part}.csv", index=False)
        write_truth(scratch, taken, seed=seed, place=hospital, layout=LAYOUT)


def _labels(patient: Patient, study: VirtualStudy, part: str, seed: int, hospital: str) -> dict[str, float]:
    if part == "valid":
        truth = truth_labels(study.plans)
    else:
        rng = generator(seed, "chexpert", hospital, part, patient.index, study.index, "report")
        truth = write_report(patient, study, rng).labels()
        # The labeller hedges now and then where the report did not.
        for name in CHEXPERT:
            if truth[name] == 1 and name not in ("No Finding", "Support Devices") and rng.random() < 0.05:
                truth[name] = -1.0
    return {name: truth[name] if not np.isnan(truth[name]) else float("nan") for name in COLUMNS}
