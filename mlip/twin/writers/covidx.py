"""COVIDx CXR, version 9A: two lists of films, three classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlip.seeding import generator
from mlip.twin.findings import Plan
from mlip.twin.hospital import hospital as hospital_named
from mlip.twin.patients import make_patient, plan_device, plan_finding
from mlip.twin.writers._films import Job, save_image, take_films, whole_folder, write_truth

LAYOUT = "COVIDx CXR 9A"
_CLASSES, _TRAIN_SHARES = ("normal", "pneumonia", "COVID-19"), (0.34, 0.30, 0.36)


def write(folder: Path, anatomy_path: Path, images: int, hospital: str, size: int, seed: int, workers: int) -> None:
    """Write ``images`` films, one or two per patient: 12 % of them form a class-balanced test list.

    COVID-19 shows as several faint opacities in the outer lower zones of both lungs, pneumonia as one denser opacity in
    one lobe. No patient is in both lists.
    """
    place = hospital_named(hospital)
    test = max(3, round(0.12 * images))
    jobs: list[Job] = []
    while len(jobs) < images:
        part = "test" if len(jobs) < test else "train"
        index = len(jobs)
        rng = generator(seed, "covidx", hospital, index, "patient")
        patient = make_patient(index, place, seed, "covidx", follow_up=False)
        kind = _CLASSES[index % 3] if part == "test" else str(rng.choice(_CLASSES, p=_TRAIN_SHARES))
        plans = _plans(kind, place.severity, rng)
        left = (test if part == "test" else images) - index
        for k in range(min(left, 1 + int(part == "train" and rng.random() < 0.2))):
            name = f"{kind.lower()}-{index:05d}-{k}.{'png' if rng.random() < 0.5 else 'jpg'}"
            note = {
                "part": part,
                "class": kind,
                "patient": f"v{index:05d}",
                "name": name,
                "source": {"COVID-19": "cohen", "pneumonia": "rsna", "normal": "rsna"}[kind],
            }
            view = "AP" if rng.random() < place.ap_share else "PA"
            jobs.append(
                Job(
                    f"{part}/{name}",
                    (seed, "covidx", hospital, index, k),
                    hospital,
                    patient.anatomy,
                    plans,
                    view,
                    patient.sex,
                    note,
                )
            )
    with whole_folder(folder) as scratch:
        for part in ("train", "test"):
            (scratch / part).mkdir()
        taken = take_films(scratch, anatomy_path, size, jobs, save_image, workers, "covidx")
        for part in ("train", "test"):
            rows = [
                f"{n['patient']} {n['name']} {n['class']} {n['source']}"
                for n in (job.note for job in jobs)
                if n["part"] == part
            ]
            (scratch / f"{part}_COVIDx9A.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
        write_truth(scratch, taken, seed=seed, place=hospital, layout=LAYOUT)


def _plans(kind: str, shift: float, rng: np.random.Generator) -> tuple[Plan, ...]:
    plans: list[Plan] = []
    if kind == "COVID-19":
        plans.append(plan_finding("Pneumonia", rng, shift=shift, kind="covid"))
    elif kind == "pneumonia":
        plan = plan_finding("Pneumonia", rng, shift=shift)
        while plan.side == "bilateral":
            plan = plan_finding("Pneumonia", rng, shift=shift)
        plans.append(plan)
    if rng.random() < 0.12:
        plans.append(plan_device(rng))
    return tuple(plans)
