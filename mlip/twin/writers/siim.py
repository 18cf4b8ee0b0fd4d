"""SIIM-ACR Pneumothorax Segmentation, stage 1: run-length table and DICOM files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mlip.data.formats.rle import encode
from mlip.seeding import generator
from mlip.twin.hospital import hospital as hospital_named
from mlip.twin.patients import make_patient
from mlip.twin.radiograph import Film
from mlip.twin.writers._dicom import write_dicom
from mlip.twin.writers._films import Job, take_films, whole_folder, write_truth

LAYOUT = "SIIM-ACR Pneumothorax Segmentation (stage 1)"


def write(folder: Path, anatomy_path: Path, images: int, hospital: str, size: int, seed: int, workers: int) -> None:
    """Write ``images`` patients with one film each; one table row per connected region, `` -1`` where there is none.

    The second column is called `` EncodedPixels`` with a leading space, as in the challenge's file.
    """
    place = hospital_named(hospital)
    jobs = []
    for index in range(images):
        patient, rng = (
            make_patient(index, place, seed, "siim", follow_up=False),
            generator(seed, "siim", hospital, index, "file"),
        )
        study = patient.studies[0]
        uids = [
            f"1.2.276.0.7230010.3.1.{k}.8323329.{int(rng.integers(1000, 32000))}.1517874{index:06d}.{int(rng.integers(100_000, 1_000_000))}"
            for k in (2, 3, 4)
        ]
        path = f"dicom-images-train/{uids[0]}/{uids[1]}/{uids[2]}.dcm"
        note = {"uids": uids, "age": patient.age, "patient": f"v{seed}-{index}"}
        jobs.append(
            Job(
                path,
                (seed, "siim", hospital, index),
                hospital,
                patient.anatomy,
                study.plans,
                study.views[0],
                patient.sex,
                note,
            )
        )
    with whole_folder(folder) as scratch:
        taken = take_films(scratch, anatomy_path, size, jobs, _save, workers, "siim")
        rows = [(film.job.note["uids"][2], f" {code}") for film in taken for code in film.rows or ["-1"]]
        pd.DataFrame(rows, columns=["ImageId", " EncodedPixels"]).to_csv(scratch / "train-rle.csv", index=False)
        write_truth(scratch, taken, seed=seed, place=hospital, layout=LAYOUT)


def _save(film: Film, job: Job, path: Path) -> list[str]:
    study, series, image = job.note["uids"]
    write_dicom(
        path,
        film.image,
        patient=job.note["patient"],
        view=film.view,
        sex=job.sex,
        age=job.note["age"],
        study_uid=study,
        series_uid=series,
        uid=image,
    )
    return [encode(m) for f in film.findings if f.plan.name == "Pneumothorax" for m in f.instances]
