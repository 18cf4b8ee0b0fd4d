"""MIMIC-CXR-JPG 2.1.0 with MIMIC-CXR's reports: the file tree and the compressed tables."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from mlip.seeding import generator
from mlip.twin.hospital import hospital as hospital_named
from mlip.twin.patients import CHEXPERT, patients_until, truth_labels
from mlip.twin.report import write_report
from mlip.twin.writers._films import Job, hex_name, save_image, sentence_truth, take_films, whole_folder, write_truth

LAYOUT = "MIMIC-CXR-JPG 2.1.0 with the reports of MIMIC-CXR 2.0.0"
_VIEWS = {"PA": "postero-anterior", "AP": "antero-posterior"}


def write(folder: Path, anatomy_path: Path, images: int, hospital: str, size: int, seed: int, workers: int) -> None:
    """Write ``images`` films with their studies' reports.

    10 % of the patients are in the test split and 5 % in validate. The tables keep 2.0.0 in their names, as in release
    2.1.0, whose own addition is the test set labelled by experts: here, what was drawn.
    """
    place = hospital_named(hospital)
    jobs: list[Job] = []
    tables: dict[str, list[dict[str, Any]]] = {"metadata": [], "split": [], "chexpert": [], "negbio": []}
    experts, reports = [], {}
    sentences: dict[str, Any] = {}
    for patient in patients_until(images, place, seed, "mimic_cxr"):
        rng = generator(seed, "mimic_cxr", hospital, patient.index, "file")
        # Injective and scattered over the ten folders: 7919 is coprime to 10^7.
        subject = 10_000_000 + (patient.index * 7919 * 97 + 32) % 10_000_000
        split = str(rng.choice(("train", "validate", "test"), p=(0.85, 0.05, 0.10)))
        split = {0: "train", 1: "validate", 2: "test"}.get(patient.index, split)  # none is empty, however few there are
        first = date(2110, 1, 1) + timedelta(days=int(rng.integers(0, 30000)))
        for study in patient.studies:
            number = 50_000_000 + (patient.index * 8 + study.index) * 1201 % 10_000_000
            stem = f"files/p{str(subject)[:2]}/p{subject}/s{number}"
            report = write_report(
                patient, study, generator(seed, "mimic_cxr", hospital, patient.index, study.index, "report")
            )
            reports[f"{stem}.txt"] = report.text
            both = {"subject_id": subject, "study_id": number}
            labels = report.labels()
            for kind in ("chexpert", "negbio"):
                tables[kind].append(both | {name: labels[name] for name in CHEXPERT})
            if split == "test":
                experts.append({"study_id": number} | truth_labels(study.plans))
            when = first + timedelta(days=study.days)
            for k, view in enumerate(study.views):
                dicom = "-".join(hex_name(rng, 8) for _ in range(5))
                job = Job(
                    f"{stem}/{dicom}.jpg",
                    (seed, "mimic_cxr", hospital, patient.index, study.index, k),
                    hospital,
                    patient.anatomy,
                    study.plans,
                    view,
                    patient.sex,
                )
                jobs.append(job)
                sentences[job.path] = sentence_truth(report.sentences)
                tables["split"].append({"dicom_id": dicom, "study_id": number, "subject_id": subject, "split": split})
                tables["metadata"].append(
                    {
                        "dicom_id": dicom,
                        **both,
                        "PerformedProcedureStepDescription": "CHEST (PORTABLE AP)"
                        if view == "AP"
                        else "CHEST (PA AND LAT)",
                        "ViewPosition": view,
                        "Rows": size,
                        "Columns": size,
                        "StudyDate": when.strftime("%Y%m%d"),
                        "StudyTime": f"{int(rng.integers(0, 24)):02d}{int(rng.integers(0, 60)):02d}{int(rng.integers(0, 60)):02d}.{int(rng.integers(0, 1000)):03d}",
                        "ProcedureCodeSequence_CodeMeaning": "CHEST (PORTABLE AP)"
                        if view == "AP"
                        else "CHEST (PA AND LAT)",
                        "ViewCodeSequence_CodeMeaning": _VIEWS[view],
                        "PatientOrientationCodeSequence_CodeMeaning": "Erect" if view == "PA" else "",
                    }
                )
    with whole_folder(folder) as scratch:
        taken = take_films(scratch, anatomy_path, size, jobs, save_image, workers, "mimic_cxr")
        for path, text in reports.items():
            (scratch / path).write_text(text, encoding="utf-8")
        for kind, rows in tables.items():
            # mtime 0: the same study gives the same bytes.
            pd.DataFrame(rows).to_csv(
                scratch / f"mimic-cxr-2.0.0-{kind}.csv.gz", index=False, compression={"method": "gzip", "mtime": 0}
            )
        pd.DataFrame(experts).to_csv(scratch / "mimic-cxr-2.1.0-test-set-labeled.csv", index=False)
        write_truth(scratch, taken, seed=seed, place=hospital, layout=LAYOUT, sentences=sentences)
