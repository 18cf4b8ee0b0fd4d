"""NIH ChestX-ray14: findings mined from reports that are not published, and a list of boxes."""

from __future__ import annotations

from pathlib import Path

from mlip.seeding import generator
from mlip.twin.findings import Plan
from mlip.twin.hospital import hospital as hospital_named
from mlip.twin.patients import patients_until
from mlip.twin.radiograph import Film
from mlip.twin.report import WrittenReport, write_report
from mlip.twin.writers._films import Job, box_of, save_image, take_films, whole_folder, write_truth

LAYOUT = "NIH ChestX-ray14 (2017)"
# What CheXpert's observations are called here; a lesion is a Mass or a Nodule, see _called.
_NAMES = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Pleural Effusion": "Effusion",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
}
# The box list has eight findings, and a spelling of its own for one.
_BOXED = {n: n for n in ("Atelectasis", "Cardiomegaly", "Effusion", "Mass", "Nodule", "Pneumonia", "Pneumothorax")}
_BOXED["Infiltration"] = "Infiltrate"
_BOX_SIDE = 1024  # boxes are in pixels of the official files, however large the ones are that are here
_TABLE = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
_BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


def write(folder: Path, anatomy_path: Path, images: int, hospital: str, size: int, seed: int, workers: int) -> None:
    """Write ``images`` films; about a fifth of the patients are in the official test list.

    A finding is listed where the (unpublished) report affirms it, and an opacity whose cause the report leaves open is an
    Infiltration. Emphysema, Fibrosis, Pleural_Thickening and Hernia are never drawn. Boxes surround the listed findings
    of test films, for the eight findings that the official list has; that all test films have them is our choice.

    Raises
    ------
    UserError : the hospital is unknown, the anatomies have another size, or an image cannot be written.
    """
    place = hospital_named(hospital)
    jobs: list[Job] = []
    table, lists = [_TABLE], {"train_val": "", "test": ""}
    for patient in patients_until(images, place, seed, "nih"):
        part = str(generator(seed, "nih", hospital, patient.index, "file").choice(("train_val", "test"), p=(0.8, 0.2)))
        part = {0: "train_val", 1: "test"}.get(patient.index, part)  # none is empty, however few there are
        number = 0
        for study in patient.studies:
            report = write_report(
                patient, study, generator(seed, "nih", hospital, patient.index, study.index, "report")
            )
            listed = mined(report, study.plans)
            boxed = {p.name: c for p in study.plans if part == "test" and (c := _category(p, report, listed))}
            for k, view in enumerate(study.views):
                name = f"{patient.index + 1:08d}_{number:03d}.png"
                cells = (
                    name,
                    "|".join(listed),
                    number,
                    patient.index + 1,
                    patient.age + study.days // 365,
                    patient.sex,
                    view,
                    size,
                    size,
                )
                # The pixel spacing is left out: a parallel projection has no detector.
                table.append(",".join(map(str, cells)) + ",,,")
                lists[part] += f"{name}\n"
                number += 1
                names = (seed, "nih", hospital, patient.index, study.index, k)
                jobs.append(
                    Job(f"images/{name}", names, hospital, patient.anatomy, study.plans, view, patient.sex, boxed)
                )
    with whole_folder(folder) as scratch:
        taken = take_films(scratch, anatomy_path, size, jobs, _save, workers, "nih")
        (scratch / "Data_Entry_2017.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
        boxes = [row for film in taken for row in film.rows]
        (scratch / "BBox_List_2017.csv").write_text("\n".join([_BOXES, *boxes]) + "\n", encoding="utf-8")
        for part, text in lists.items():
            (scratch / f"{part}_list.txt").write_text(text, encoding="utf-8")
        write_truth(scratch, taken, seed=seed, place=hospital, layout=LAYOUT)


def mined(report: WrittenReport, plans: tuple[Plan, ...]) -> list[str]:
    """NIH's names of what a report affirms, sorted; ``No Finding`` where it affirms none of them.

    ``plans`` are the study's findings: they tell whether a lesion is a mass or a nodule.
    """
    affirmed = {name for name, value in report.labels().items() if value == 1}
    found = {_called(p) for p in plans if p.name == "Lung Lesion" and p.name in affirmed}
    found |= {called for name, called in _NAMES.items() if name in affirmed}
    if _open_causes(report):
        found.add("Infiltration")
    return sorted(found) or ["No Finding"]


def _called(plan: Plan) -> str:
    return plan.kind.capitalize() if plan.name == "Lung Lesion" else _NAMES.get(plan.name, "")


def _open_causes(report: WrittenReport) -> set[str]:
    """The findings that the report describes, in some sentence, as nothing more than an opacity."""
    return {
        # Patterns of an opacity alone belong to pneumonia unless they hedge another cause (mlip/twin/phrases.py).
        "Atelectasis" if s.says.get("Atelectasis") == "uncertain" else "Pneumonia"
        for s in report.sentences
        if [n for n, certainty in s.says.items() if certainty == "affirmed"] == ["Lung Opacity"]
    }


def _category(plan: Plan, report: WrittenReport, listed: list[str]) -> str:
    """Under which listed finding the box list has this one, "" where it has not."""
    if (called := _called(plan)) in listed:
        return _BOXED.get(called, "")
    return _BOXED["Infiltration"] if plan.name in _open_causes(report) else ""


def _save(film: Film, job: Job, path: Path) -> list[str]:
    save_image(film, job, path)
    scale = _BOX_SIDE / len(film.image)
    return [
        ",".join((path.name, job.note[f.plan.name], *(str(scale * v) for v in box_of(mask)))) + ",,,"
        for f in film.findings
        if f.plan.name in job.note
        for mask in f.instances
    ]
