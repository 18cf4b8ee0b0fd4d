"""Every writer's folder is understood by the data set's own reader, and holds what was drawn."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlip.data.catalogue import readers
from mlip.errors import UserError
from mlip.paths import ROOT
from mlip.study import load_study
from mlip.twin.catalogue import twin_writer
from mlip.twin.patients import truth_labels
from mlip.twin.sheet import EXAMPLES, contact_sheet
from mlip.twin.writers._films import take_film, whole_folder
from tests.data.golden import HOSPITALS as PLACES
from tests.ours import our_readers, our_writers

IMAGES, SIZE = 60, 64


@pytest.fixture(scope="module")
def raw(anatomy_path, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    for name, place in PLACES.items():
        twin_writer(name).write(root / name, anatomy_path, IMAGES, place, SIZE, 5, 1)
    return root


def read(root: Path, name: str):
    reader = readers()[name]
    options = reader.Options()
    reader.check(root / name, options)
    return reader, reader.records(root / name, options)


@pytest.mark.parametrize("name", PLACES)
def test_the_reader_understands_every_film(raw, name):
    reader, records = read(raw, name)
    assert len(records) == IMAGES
    for record in records:
        image = reader.load_image(record)
        assert image.shape == (SIZE, SIZE)
        assert image.std() > 20
        for box in record.boxes:
            assert box.x >= 0
            assert box.y >= 0
            assert box.width > 0
            assert box.height > 0
            assert box.x + box.width <= SIZE
            assert box.y + box.height <= SIZE


@pytest.mark.parametrize("name", PLACES)
def test_the_folder_says_that_it_is_virtual(raw, name):
    card = json.loads((raw / name / "TWIN.json").read_text(encoding="utf-8"))
    assert card["virtual"] is True
    truth = pd.read_parquet(raw / name / card["truth"])
    assert len(truth) == IMAGES
    assert all((raw / name / p).is_file() for p in truth.path)


def test_every_reader_has_a_writer():
    assert set(our_writers()) - {"rsna_with_test"} == set(our_readers()) == set(PLACES)


def test_every_reader_runs_in_the_smoke_study():
    study = load_study(ROOT / "config" / "smoke.yaml")
    assert {d.reader for d in study.datasets.values() if d.twin} == set(our_readers())


def test_mimic(raw):
    reader, records = read(raw, "mimic_cxr")
    assert reader.check(raw / "mimic_cxr", reader.Options()) == "2.1.0"
    assert {r.official_split for r in records} == {"train", "validate", "test"}
    assert {r.view for r in records} <= {"PA", "AP"}
    by_patient = {}
    for r in records:
        assert "FINDINGS:" in r.report or "IMPRESSION:" in r.report
        assert by_patient.setdefault(r.patient_id, r.official_split) == r.official_split
    truth = pd.read_parquet(raw / "mimic_cxr" / "truth.parquet").set_index("path")
    for r in records:
        sentences = json.loads(truth.sentences[str(r.path.relative_to(raw / "mimic_cxr"))])
        assert all(" ".join(s["text"].split()[:3]) in " ".join(r.report.split()) for s in sentences)
        affirmed = {n for s in sentences for n, c in s["says"].items() if c == "affirmed"} - {"No Finding"}
        assert all(r.labels[n] == 1 for n in affirmed)
    with gzip.open(raw / "mimic_cxr" / "mimic-cxr-2.0.0-metadata.csv.gz", "rt") as lines:
        assert next(lines).startswith(
            "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns"
        )


def test_chexpert(raw, anatomy_path, tmp_path):
    _, records = read(raw, "chexpert")
    valid = [r for r in records if r.official_split == "test"]
    assert len(valid) == round(0.15 * IMAGES)
    assert all(v in (0, 1) for r in valid for v in r.labels.values())
    train = np.array([list(r.labels.values()) for r in records if r.official_split == "train"])
    assert np.isnan(train).any()
    assert (train == 0).any()
    assert not {r.patient_id for r in valid} & {r.patient_id for r in records if r.official_split == "train"}
    table = pd.read_csv(raw / "chexpert" / "train.csv")
    assert list(table.columns[:6]) == ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding"]
    assert table.Path.str.match(r"CheXpert-v1\.0/train/patient\d{5}/study\d+/view\d_frontal\.jpg").all()


def test_chexpert_at_study_size_has_exclusive_positives(monkeypatch, tmp_path):
    """2,400 films must give at least 40 exclusive positives of each of the five competition findings."""
    writer = twin_writer("chexpert")
    monkeypatch.setattr(writer, "take_films", lambda *a: [])
    monkeypatch.setattr(writer, "write_truth", lambda *a, **k: None)
    writer.write(tmp_path / "chexpert", tmp_path / "none", 2400, "west", SIZE, 2024, 1)
    table = pd.read_csv(tmp_path / "chexpert" / "train.csv")[
        ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
    ].fillna(0)
    exclusive = (table == 1) & (table.ne(0).sum(axis=1) == 1).to_numpy()[:, None]
    assert (exclusive.sum() >= 40).all(), exclusive.sum()
    assert (table == -1).any().all()


def test_rsna(raw, anatomy_path):
    _, records = read(raw, "rsna")
    share = np.mean([r.labels["Pneumonia"] for r in records])
    assert 0.15 < share < 0.5
    assert all(bool(r.boxes) == (r.labels["Pneumonia"] == 1) for r in records)
    classes = (
        pd.read_csv(raw / "rsna" / "stage_2_detailed_class_info.csv").drop_duplicates().set_index("patientId")["class"]
    )
    assert set(classes) == {"Lung Opacity", "Normal", "No Lung Opacity / Not Normal"}
    assert all((classes[r.image_id] == "Lung Opacity") == bool(r.boxes) for r in records)


def test_rsna_with_its_test_films(raw, anatomy_path, tmp_path):
    twin_writer("rsna_with_test").write(tmp_path / "rsna", anatomy_path, IMAGES, PLACES["rsna"], SIZE, 5, 1)
    reader = readers()["rsna"]
    options = reader.Options.model_validate({"test_labels": "stage_2_test_labels.csv"})
    reader.check(tmp_path / "rsna", options)
    records = reader.records(tmp_path / "rsna", options)
    _, plain = read(raw, "rsna")
    known = {r.image_id: (r.labels, r.boxes) for r in plain}
    assert {r.image_id: (r.labels, r.boxes) for r in records} == known, "the films of `rsna`, in two folders"
    assert sum(r.official_split == "test" for r in records) == round(IMAGES * 3000 / 29684)
    assert all(r.path.is_file() for r in records)
    assert len(read(tmp_path, "rsna")[1]) == IMAGES - 6, "without the option the training films alone"
    truth = pd.read_parquet(tmp_path / "rsna" / "truth.parquet")
    assert all((tmp_path / "rsna" / path).is_file() for path in truth["path"])


@pytest.mark.parametrize(("form", "tolerance"), [("plain", 0), ("inverted", 0), ("deep", 1), ("rescaled", 1)])
def test_every_spelling_of_dicom_gives_the_same_film(tmp_path, rng, form, tolerance):
    from mlip.data.formats.dicom import read_dicom
    from mlip.twin.writers._dicom import write_dicom

    image = rng.integers(0, 256, (33, 31)).astype(np.uint8)
    path = tmp_path / "film.dcm"
    write_dicom(
        path,
        image,
        patient="x",
        view="PA",
        sex="F",
        age=50,
        study_uid="1.2.3",
        series_uid="1.2.4",
        uid="1.2.5",
        form=form,
    )
    assert np.abs(read_dicom(path).astype(int) - image).max() <= tolerance


def test_siim_masks_are_the_drawn_ones(raw, anatomy_path, monkeypatch):
    reader, records = read(raw, "siim")
    header = (raw / "siim" / "train-rle.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "ImageId, EncodedPixels"
    jobs = []
    writer = twin_writer("siim")
    monkeypatch.setattr(writer, "take_films", lambda folder, a, size, j, *rest: jobs.extend(j) or [])
    monkeypatch.setattr(writer, "write_truth", lambda *a, **k: None)
    writer.write(raw / "again", anatomy_path, IMAGES, "bright", SIZE, 5, 1)
    films = {job.note["uids"][2]: job for job in jobs}
    positives = [r for r in records if r.labels["Pneumothorax"]]
    assert 0.12 < len(positives) / IMAGES < 0.5
    for record in positives:
        film = take_film(films[record.image_id], anatomy_path)
        drawn = np.logical_or.reduce([m for f in film.findings if f.plan.name == "Pneumothorax" for m in f.instances])
        assert np.array_equal(reader.load_mask(record).astype(bool), drawn)
        assert np.array_equal(reader.load_image(record), film.image)


def test_covidx(raw):
    _, records = read(raw, "covidx")
    classes = np.array([[r.labels[c] for c in ("normal", "pneumonia", "COVID-19")] for r in records])
    assert (classes.sum(1) == 1).all()
    test = np.array([r.official_split == "test" for r in records])
    assert test.sum() == max(3, round(0.12 * IMAGES))
    assert np.ptp(classes[test].sum(0)) <= 1
    assert not {r.patient_id for r, t in zip(records, test, strict=True) if t} & {
        r.patient_id for r, t in zip(records, test, strict=True) if not t
    }


def test_object_cxr(raw):
    _, records = read(raw, "object_cxr")
    assert 0.4 <= np.mean([bool(r.boxes) for r in records]) <= 0.6
    dev = [r for r in records if r.official_split == "test"]
    assert {bool(r.boxes) for r in dev} == {True, False}
    tables = pd.concat(pd.read_csv(raw / "object_cxr" / f"{p}.csv") for p in ("train", "dev"))
    kinds = {shape.split()[0] for a in tables.annotation.dropna() for shape in a.split(";")}
    assert kinds == {"0", "1", "2"}


def test_nih(raw):
    _, records = read(raw, "nih")
    parts = {part: {r.patient_id for r in records if r.official_split == part} for part in ("train", "test")}
    assert all(parts.values())
    assert not parts["train"] & parts["test"]
    assert all(
        (r.labels["No Finding"] == 1) != any(v for n, v in r.labels.items() if n != "No Finding") for r in records
    )
    findings = {n for r in records for n, v in r.labels.items() if v}
    assert {"No Finding", "Infiltration", "Pneumonia", "Pleural Effusion"} <= findings
    assert not findings & {"Emphysema", "Fibrosis", "Pleural Thickening", "Hernia"}
    boxed = [r for r in records if r.boxes]
    assert boxed
    truth = pd.read_parquet(raw / "nih" / "truth.parquet").set_index("path")
    for r in boxed:
        assert r.official_split == "test"
        drawn = [b for f in json.loads(truth.findings[f"images/{r.image_id}"]) for b in f["boxes"]]
        for box in r.boxes:
            assert r.labels[box.category] == 1
            assert min(np.abs(np.array((box.x, box.y, box.width, box.height)) - b).max() for b in drawn) < 1e-6
    lines = (raw / "nih" / "Data_Entry_2017.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].endswith("View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],")
    assert {line.count(",") for line in lines} == {11}


@pytest.mark.parametrize(
    ("says", "kind", "expected"),
    [
        ([{"Pneumonia": "affirmed", "Lung Opacity": "affirmed"}], "", ["Pneumonia"]),
        ([{"Pneumonia": "uncertain", "Lung Opacity": "affirmed"}], "", ["Infiltration"]),
        ([{"Pneumonia": "uncertain"}, {"Edema": "negated"}], "", ["No Finding"]),
        ([{"Lung Lesion": "affirmed"}, {"Pleural Effusion": "affirmed"}], "mass", ["Effusion", "Mass"]),
        ([{"Support Devices": "affirmed"}], "", ["No Finding"]),
    ],
)
def test_nih_lists_what_the_report_affirms(says, kind, expected):
    from mlip.twin.findings import Plan
    from mlip.twin.report import Sentence, WrittenReport
    from mlip.twin.writers.nih import mined

    plans = (Plan("Lung Lesion", "left", "left upper lobe", 0.5, kind, 1),) if kind else ()
    report = WrittenReport("", tuple(Sentence("", "findings", s) for s in says))
    assert mined(report, plans) == expected


def test_iu_xray(raw):
    from PIL import Image

    _, records = read(raw, "iu_xray")
    truth = pd.read_parquet(raw / "iu_xray" / "truth.parquet").set_index("path")
    of_report = {}
    for r in records:
        assert r.report.startswith(("FINDINGS: ", "IMPRESSION: "))
        assert "___" not in r.report
        sentences = json.loads(truth.sentences[f"NLMCXR_png/{r.path.name}"])
        assert sentences
        assert all(s["text"] in r.report for s in sentences)
        of_report.setdefault(r.patient_id, []).append(r)
    assert all(len({r.report for r in films}) == 1 for films in of_report.values())
    assert {1, 2} <= {len(films) for films in of_report.values()}
    with Image.open(records[0].path) as image:
        assert image.mode == "RGB"
    # What is coded was drawn, and nothing is coded of a film on which nothing was.
    names = {"Pneumonia", "Consolidation", "Pleural Effusion", "Pneumothorax", "Cardiomegaly", "Edema", "Atelectasis"}
    coded = 0
    for r in records:
        drawn = {f["finding"] for f in json.loads(truth.findings[f"NLMCXR_png/{r.path.name}"])}
        present = {label for label in names if r.labels[label] == 1}
        assert present <= drawn
        assert (r.labels["No Finding"] == 1) == (not any(v for k, v in r.labels.items() if k != "No Finding"))
        coded += len(present)
    assert coded > 0.1 * len(records)


def test_covid_chestxray(raw, anatomy_path, monkeypatch):
    """Labels, notes and outlines are those of what was drawn."""
    reader, records = read(raw, "covid_chestxray")
    root, jobs = raw / "covid_chestxray", []
    writer = twin_writer("covid_chestxray")
    monkeypatch.setattr(writer, "take_films", lambda folder, a, size, j, *rest: jobs.extend(j) or [])
    monkeypatch.setattr(writer, "write_truth", lambda *a, **k: None)
    writer.write(raw / "again", anatomy_path, IMAGES, PLACES["covid_chestxray"], SIZE, 5, 1)
    films = {Path(job.path).name: job for job in jobs}
    truth = pd.read_parquet(root / "truth.parquet").set_index("path")
    assert {r.view for r in records} == {"PA", "AP", "AP Supine"}
    unlabelled = [r for r in records if np.isnan(r.labels["COVID-19"])]
    assert 0 < len(unlabelled) < 0.3 * IMAGES
    for r in records:
        drawn = {f["finding"]: f["kind"] for f in json.loads(truth.findings[f"images/{r.image_id}"])}
        if r not in unlabelled:
            assert (r.labels["Pneumonia"], r.labels["COVID-19"]) == (
                "Pneumonia" in drawn,
                drawn.get("Pneumonia") == "covid",
            )
        sentences = json.loads(truth.sentences[f"images/{r.image_id}"])
        assert bool(sentences) == bool(r.report)
        assert all(s["text"] in r.report for s in sentences)
        assert [b.category for b in r.boxes] == ["Right Lung", "Left Lung"]
        assert r.boxes[0].x < r.boxes[1].x  # the patient's right is on the left of the film
    masked = [r for r in records if r.mask is not None]
    assert 0.4 < len(masked) / IMAGES < 0.8
    for r in masked[:12]:
        film, mask = take_film(films[r.image_id], anatomy_path), reader.load_mask(r).astype(bool)
        assert np.array_equal(mask, film.lung("right") | film.lung("left"))
        assert 0.2 < mask.mean() < 0.5
        inside = np.zeros_like(mask)
        for b in r.boxes:
            inside[int(b.y) : int(b.y + b.height), int(b.x) : int(b.x + b.width)] = True
        assert not (mask & ~inside).any()
        # Air is dark: the outline lies on the lungs of this film.
        assert film.image[mask].mean() + 20 < film.image[~mask].mean()


@pytest.mark.parametrize("name", ["mimic_cxr", "rsna", "covid_chestxray"])
def test_the_workers_do_not_change_a_byte(anatomy_path, tmp_path, name):
    def digest(folder: Path) -> dict[str, str]:
        return {
            str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in folder.rglob("*")
            if p.is_file()
        }

    for workers in (1, 2):
        twin_writer(name).write(tmp_path / str(workers), anatomy_path, 40, PLACES[name], SIZE, 5, workers)
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_a_broken_run_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(RuntimeError), whole_folder(folder) as scratch:
        (scratch / "new").touch()
        raise RuntimeError
    assert [p.name for p in folder.iterdir()] == ["old"]
    with whole_folder(folder) as scratch:
        (scratch / "new").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert [p.name for p in folder.iterdir()] == ["new"]


def test_another_size_is_refused(anatomy_path, tmp_path):
    with pytest.raises(UserError, match="64 px"):
        twin_writer("rsna").write(tmp_path / "rsna", anatomy_path, 2, "portable", 96, 5, 1)
    assert not list(tmp_path.iterdir())


def test_truth_counts_opacities():
    from mlip.twin.findings import Plan

    labels = truth_labels((Plan("Pneumonia", "left", "left lower lobe", 0.5, "", 1),))
    assert [n for n, v in labels.items() if v] == ["Consolidation", "Lung Opacity", "Pneumonia"]
    assert truth_labels(())["No Finding"] == 1


def test_contact_sheet(anatomy_path, tmp_path):
    import cv2

    contact_sheet(tmp_path / "sheet.png", anatomy_path, columns=4)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (-(-len(EXAMPLES) // 4) * (SIZE + 16), 4 * 2 * SIZE, 3)
