"""Films of one's own and a table of them: what a small department could export, with every column that the reader knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlip.seeding import generator
from mlip.twin.hospital import hospital as hospital_named
from mlip.twin.patients import patients_until
from mlip.twin.radiograph import Film
from mlip.twin.report import write_report
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

LAYOUT = "films of one's own (films.csv, docs/own-data.md)"
_LABELS = ("Cardiomegaly", "Edema", "Pleural Effusion", "Pneumonia", "Pneumothorax")
_MASKED, _BOXED = "Pneumothorax", "Pneumonia"
_WITH_TEXT = 0.7  # share of examinations whose report was exported


def write(folder: Path, anatomy_path: Path, images: int, hospital: str, size: int, seed: int, workers: int) -> None:
    """Write ``images`` films, PNG, in a folder per patient; ``films.csv`` holds the labels as a labeller of the reports gives them.

    Some examinations have a text file. Every pneumothorax has a mask (``masks/<stem>.png``), every pneumonia a box (``boxes.csv``).

    Raises
    ------
    UserError : the hospital is unknown, the anatomies have another size, or an image cannot be written.
    """
    place = hospital_named(hospital)
    jobs: list[Job] = []
    rows: list[dict[str, Any]] = []
    texts: dict[str, str] = {}
    sentences: dict[str, Any] = {}
    for patient in patients_until(images, place, seed, "image_csv"):
        rng = generator(seed, "image_csv", hospital, patient.index, "file")
        for study in patient.studies:
            accession = f"E{patient.index + 1:04d}-{study.index}"
            names = (seed, "image_csv", hospital, patient.index, study.index)
            report = write_report(patient, study, generator(*names, "report"))
            told = not texts or bool(rng.random() < _WITH_TEXT)
            if told:
                texts[f"texts/{accession}.txt"] = report.text
            labels = {name: report.labels()[name] for name in _LABELS}
            for k, view in enumerate(study.views):
                path = f"films/P{patient.index + 1:04d}/{accession}-{k}.png"
                jobs.append(Job(path, (*names, k), hospital, patient.anatomy, study.plans, view, patient.sex))
                sentences[path] = sentence_truth(report.sentences) if told else []
                known = {
                    "image": path,
                    "patient": f"P{patient.index + 1:04d}",
                    "study": accession,
                    "view": view,
                    "sex": patient.sex,
                    "age": patient.age + study.days // 365,
                    "text": f"texts/{accession}.txt" if told else "",
                }
                rows.append(known | {name: "" if np.isnan(v) else int(v) for name, v in labels.items()})
    with whole_folder(folder) as scratch:
        for name in ("masks", "texts"):
            (scratch / name).mkdir()
        taken = take_films(scratch, anatomy_path, size, jobs, _save, workers, "image_csv")
        for path, text in texts.items():
            (scratch / path).write_text(text, encoding="utf-8")
        pd.DataFrame(rows).to_csv(scratch / "films.csv", index=False)
        boxes = [(film.job.path, *box, _BOXED) for film in taken for box in film.rows]
        columns = ["image", "x", "y", "width", "height", "finding"]
        pd.DataFrame(boxes, columns=columns).to_csv(scratch / "boxes.csv", index=False)
        write_truth(scratch, taken, seed=seed, place=hospital, layout=LAYOUT, sentences=sentences)


def _save(film: Film, job: Job, path: Path) -> list[tuple[int, int, int, int]]:
    """Write the film, and its mask where it has one; returns its boxes."""
    save_image(film, job, path)
    outlines = [m for f in film.findings if f.plan.name == _MASKED for m in f.instances]
    if outlines:
        masks = path.parents[2] / "masks"
        write_image(np.logical_or.reduce(outlines).astype(np.uint8) * 255, masks / path.name)
    return [box_of(m) for f in film.findings if f.plan.name == _BOXED for m in f.instances]
