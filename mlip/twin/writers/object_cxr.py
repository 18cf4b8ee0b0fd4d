"""Object-CXR: films of township hospitals, half of them with foreign objects on the chest."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from mlip.seeding import generator
from mlip.twin.devices import OBJECTS
from mlip.twin.findings import Plan
from mlip.twin.hospital import hospital as hospital_named
from mlip.twin.patients import make_patient
from mlip.twin.radiograph import Film
from mlip.twin.writers._films import Job, box_of, save_image, take_films, whole_folder, write_truth

LAYOUT = "Object-CXR (MIDL 2020)"


def write(folder: Path, anatomy_path: Path, images: int, hospital: str, size: int, seed: int, workers: int) -> None:
    """Write ``images`` films: every ninth goes to ``dev``, and every second holds one to five objects.

    Annotations are ``type x1 y1 x2 y2 ...`` joined by ``;``: 0 rectangle, 1 ellipse, 2 polygon.
    """
    place = hospital_named(hospital)
    jobs = []
    for index in range(images):
        rng = generator(seed, "object_cxr", hospital, index, "patient")
        patient = make_patient(index, place, seed, "object_cxr", follow_up=False)
        study = patient.studies[0]
        plans = tuple(p for p in study.plans if p.name != "Support Devices")
        if index % 2 == 0:  # nine is odd, so dev holds both kinds as well
            plans += tuple(
                Plan("Foreign object", "", "", 0.5, str(rng.choice(OBJECTS)), int(rng.integers(2**31)))
                for _ in range(1 + int(rng.choice(5, p=(0.4, 0.27, 0.17, 0.1, 0.06))))
            )
        part = "dev" if index % 9 == 8 else "train"
        jobs.append(
            Job(
                f"{part}/{index:05d}.jpg",
                (seed, "object_cxr", hospital, index),
                hospital,
                patient.anatomy,
                plans,
                study.views[0],
                patient.sex,
            )
        )
    with whole_folder(folder) as scratch:
        for part in ("train", "dev"):
            (scratch / part).mkdir()
        taken = take_films(scratch, anatomy_path, size, jobs, _save, workers, "object_cxr")
        for part in ("train", "dev"):
            rows = [(t.job.path.split("/")[1], t.rows) for t in taken if t.job.path.startswith(part)]
            pd.DataFrame(rows, columns=["image_name", "annotation"]).to_csv(scratch / f"{part}.csv", index=False)
        write_truth(scratch, taken, seed=seed, place=hospital, layout=LAYOUT)


def _save(film: Film, job: Job, path: Path) -> str:
    save_image(film, job, path)
    shapes = []
    for finding in film.findings:
        if finding.plan.name == "Foreign object":
            shapes += [_annotate(mask, finding.shape) for mask in finding.instances]
    return ";".join(shapes)


def _annotate(mask: np.ndarray, shape: str) -> str:
    x, y, w, h = box_of(mask)
    if shape in ("rectangle", "ellipse"):
        return f"{int(shape == 'ellipse')} {x} {y} {x + w} {y + h}"
    points = np.argwhere(mask)[:, ::-1].astype(np.int32)
    hull = cv2.convexHull(points).reshape(-1, 2)
    if len(hull) < 3:
        return f"0 {x} {y} {x + w} {y + h}"
    return "2 " + " ".join(str(v) for v in hull.ravel())
