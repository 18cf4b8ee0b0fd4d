"""RSNA Pneumonia Detection Challenge, stage 2: label and class tables and DICOM files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mlip.seeding import generator
from mlip.twin.hospital import hospital as hospital_named
from mlip.twin.patients import make_patient, truth_labels
from mlip.twin.radiograph import Film
from mlip.twin.writers._dicom import write_dicom
from mlip.twin.writers._films import Job, box_of, hex_name, take_films, whole_folder, write_truth

LAYOUT = "RSNA Pneumonia Detection Challenge (stage 2)"
_FORMS, _SHARES = ("plain", "inverted", "deep", "rescaled"), (0.88, 0.05, 0.04, 0.03)


def write(folder: Path, anatomy_path: Path, images: int, hospital: str, size: int, seed: int, workers: int) -> None:
    """Write ``images`` patients with one film each.

    Boxes surround the parts of pneumonia and consolidation, in pixels of the written film. Films without them are
    ``Normal`` or ``No Lung Opacity / Not Normal``.
    """
    place = hospital_named(hospital)
    jobs = []
    for index in range(images):
        names = (seed, "rsna", hospital, index)
        patient, rng = make_patient(index, place, seed, "rsna", follow_up=False), generator(*names, "file")
        name = f"{hex_name(rng, 8)}-{hex_name(rng, 4)}-4{hex_name(rng, 3)}-{hex_name(rng, 4)}-{hex_name(rng, 12)}"
        study = patient.studies[0]
        form = str(rng.choice(_FORMS, p=_SHARES))
        note = {"name": name, "age": patient.age, "form": form}
        jobs.append(
            Job(
                f"stage_2_train_images/{name}.dcm",
                names,
                hospital,
                patient.anatomy,
                study.plans,
                study.views[0],
                patient.sex,
                note,
            )
        )
    with whole_folder(folder) as scratch:
        taken = take_films(scratch, anatomy_path, size, jobs, _save, workers, "rsna")
        labels: list[dict[str, Any]] = []
        classes = []
        for film in taken:
            name = film.job.note["name"]
            boxes = film.rows
            sound = truth_labels(film.job.plans)["No Finding"] == 1
            kind = "Lung Opacity" if boxes else "Normal" if sound else "No Lung Opacity / Not Normal"
            for box in boxes or [(None,) * 4]:
                labels.append(
                    {
                        "patientId": name,
                        **dict(zip(("x", "y", "width", "height"), box, strict=True)),
                        "Target": int(bool(boxes)),
                    }
                )
                classes.append({"patientId": name, "class": kind})
        pd.DataFrame(labels).astype({c: float for c in ("x", "y", "width", "height")}).to_csv(
            scratch / "stage_2_train_labels.csv", index=False
        )
        pd.DataFrame(classes).to_csv(scratch / "stage_2_detailed_class_info.csv", index=False)
        write_truth(scratch, taken, seed=seed, place=hospital, layout=LAYOUT)


def _save(film: Film, job: Job, path: Path) -> list[tuple[int, int, int, int]]:
    uid = f"1.2.276.0.7230010.3.1.4.{job.names[0]}.{job.names[3]}"
    write_dicom(
        path,
        film.image,
        patient=job.note["name"],
        view=film.view,
        sex=job.sex,
        age=job.note["age"],
        study_uid=f"{uid}.1",
        series_uid=f"{uid}.2",
        uid=f"{uid}.3",
        form=job.note["form"],
    )
    return [box_of(m) for f in film.findings if f.plan.name in ("Pneumonia", "Consolidation") for m in f.instances]
