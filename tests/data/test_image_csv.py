"""Films of one's own: three layouts as they are met, and what is wrong with a row said with file, line and fix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlip.data.audit import audit
from mlip.data.build import build_store
from mlip.data.catalogue import resolve
from mlip.data.division import build_splits
from mlip.data.records import Reader, Record
from mlip.data.splits import read_splits
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.run.doctor import doctor
from mlip.study import Study
from tests.data.layouts import film, study_of, write_dicom, write_image

NAN = float("nan")


def study(root: Path, options: dict[str, Any], **extra: Any) -> Study:
    tasks = extra.pop("tasks", {"linear_probe": {"datasets": ["ours"], "targets": {"ours": {"labels": ["Edema"]}}}})
    config = {"ours": {"reader": "image_csv", "root": str(root), "options": options, **extra}}
    methods = {"include": ["thumbnail"]}
    return study_of(root.parent, config, tasks=tasks, pretrain={"datasets": []}, methods=methods)


def read(root: Path, options: dict[str, Any]) -> tuple[Reader, list[Record]]:
    reader, validated = resolve(study(root, options), "ours")
    assert reader.verify(root, validated) == "1"
    return reader, reader.records(root, validated)


def built(at: Study) -> pd.DataFrame:
    build_store("ours", at, 1)
    build_splits("ours", at)
    audit(at)
    return open_store(StudyPaths(at).data("ours")).records


# --- three layouts ----------------------------------------------------------------------------------------------------

NIH_LIKE: dict[str, Any] = {
    "table": "entries.csv",
    "image": "Image Index",
    "patient": "Patient ID",
    "view": "View Position",
    "sex": "Patient Gender",
    "age": "Patient Age",
    "findings": {"column": "Finding Labels", "names": {"Effusion": "Pleural Effusion", "Edema": "Edema", "Mass": "Mass"}},
    "boxes": {
        "table": "boxes.csv", "x": "x", "y": "y", "width": "w", "height": "h", "category": "Finding", "categories": ["Mass"],
    },
}  # fmt: skip


def nih_like(root: Path) -> dict[str, Any]:
    """Findings in one cell, films in numbered folders, boxes of some films in a table of their own."""
    found = ("No Finding", "Effusion|Edema", "Mass", "Edema")
    rows = [
        (f"{i // 2:04d}_{i % 2}.png", found[i % 4], i // 2, "FM"[i // 2 % 2], f"{40 + i:03d}Y", "PA") for i in range(40)
    ]
    for i, row in enumerate(rows):
        write_image(root / f"images_{i % 3 + 1:03d}" / "images" / row[0], film(i, 64, 64))
    columns = ["Image Index", "Finding Labels", "Patient ID", "Patient Gender", "Patient Age", "View Position"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "entries.csv", index=False)
    boxes = [(rows[2][0], 8, 8, 20, 30, "Mass"), (rows[2][0], 40, 8, 10, 30, "Mass"), (rows[0][0], "", "", "", "", "")]
    pd.DataFrame(boxes, columns=["Image Index", "x", "y", "w", "h", "Finding"]).to_csv(root / "boxes.csv", index=False)
    return NIH_LIKE


def test_findings_in_one_cell_and_boxes_in_another_table(tmp_path: Path) -> None:
    reader, records = read(tmp_path / "nih", nih_like(tmp_path / "nih"))
    assert reader.labels == ("Edema", "Pleural Effusion", "Mass") and reader.box_categories == ("Mass",)
    assert [tuple(r.labels.values()) for r in records[:4]] == [(0, 0, 0), (1, 1, 0), (0, 0, 1), (1, 0, 0)]
    assert [(r.sex, r.age, r.view, r.patient_id) for r in records[2:4]] == [("M", 42, "PA", "1"), ("M", 43, "PA", "1")]
    table = built(study(tmp_path / "nih", NIH_LIKE))
    assert [len(b) for b in table.boxes[:4]] == [0, 0, 2, 0]
    assert table.boxes_known.tolist()[:4] == [True, False, True, False], (
        "looked at, not looked at, boxed, not looked at"
    )
    assert table.sex.tolist()[:3] == ["F", "F", "M"] and table.age.tolist()[:2] == [40, 41]
    splits = read_splits(StudyPaths(study(tmp_path / "nih", NIH_LIKE)).splits("ours"))
    assert splits.groupby("patient_id").part.nunique().max() == 1 and set(splits.part) == {"train", "val", "test"}


CHEXPERT_LIKE: dict[str, Any] = {
    "table": "train.csv",
    "image": "Path",
    "patient": {"column": "Path", "pattern": r"patient(\d+)"},
    "study": {"column": "Path", "pattern": r"patient\d+/study\d+"},
    "split": {"column": "fold", "words": {0: "train", 1: "val", 2: "test"}},
    "labels": ["Edema", "Pneumothorax"],
    "text": {"column": "note"},
}


def chexpert_like(root: Path) -> dict[str, Any]:
    """Relative paths with a folder before them, -1 for uncertain, empty for not mentioned; equal stems; notes for some films."""
    rows = []
    for i in range(30):
        path = f"train/patient{i // 3:05d}/study{i % 3 + 1}/view1_frontal.jpg"
        write_image(root / path, film(i))
        note = f"There is edema, number {i}." if i % 2 else ""
        rows.append((f"CheXpert-v1.0/{path}", i // 3 % 3, ("1.0", "-1.0", "0.0", "")[i % 4], i % 2, note))
    pd.DataFrame(rows, columns=["Path", "fold", "Edema", "Pneumothorax", "note"]).to_csv(
        root / "train.csv", index=False
    )
    return CHEXPERT_LIKE


@pytest.mark.parametrize(
    ("policy", "values"),
    [
        ({}, [1, -1, 0, NAN]),
        ({"uncertain": "positive"}, [1, 1, 0, NAN]),
        ({"uncertain": "negative", "missing": "negative"}, [1, 0, 0, 0]),
        ({"uncertain": "unknown"}, [1, NAN, 0, NAN]),
    ],
)
def test_relative_paths_and_uncertain_labels(policy: dict[str, str], values: list[float], tmp_path: Path) -> None:
    _, records = read(tmp_path / "chexpert", chexpert_like(tmp_path / "chexpert") | policy)
    np.testing.assert_equal([r.labels["Edema"] for r in records[:4]], values)
    assert (records[4].patient_id, records[4].study_id) == ("00001", "patient00001/study2")
    assert records[4].path == tmp_path / "chexpert/train/patient00001/study2/view1_frontal.jpg"
    assert [r.official_split for r in records[::3]] == ["train", "validate", "test"] * 3 + ["train"]
    assert [bool(r.report) for r in records[:4]] == [False, True, False, True]


def test_the_official_parts_of_a_table_are_kept(tmp_path: Path) -> None:
    at = study(tmp_path / "chexpert", chexpert_like(tmp_path / "chexpert"), split="official")
    table = built(at)
    splits = read_splits(StudyPaths(at).splits("ours"))
    assert (splits.part == table.official_split.replace({"validate": "val"})).all()


EXPORT: dict[str, Any] = {
    "table": "export.csv",
    "folder": "dicom",
    "image": "SOPInstanceUID",
    "patient": "Patient",
    "sex": {"column": "Sex", "words": {"1": "M", "2": "F"}},
    "text_file": "Accession",
    "absent_texts": "leave_out",
    "labels": {
        "Edema": {"column": "Stauung", "positive": ["ja", "fraglich ja"], "negative": ["nein"], "unknown": ["?"]}
    },
    "masks": {"name": "Edema", "folder": "masks", "without": "empty", "black": "empty"},
}


def export(root: Path) -> dict[str, Any]:
    """DICOM by UID, some without a suffix, texts by accession number for some films, own words, masks by stem."""
    rows = []
    for i in range(24):
        uid, accession = f"1.2.276.0.{i}", f"A{i:03d}"
        write_dicom(root / "dicom" / f"series{i % 2}" / (uid if i % 3 else f"{uid}.dcm"), film(i, 48, 48))
        rows.append((uid, i // 2, i % 2 + 1, accession, ("ja", "nein", "?", "Fraglich ja")[i % 4]))
        if i % 2:
            (root / "texts").mkdir(exist_ok=True)
            (root / "texts" / f"{accession}.txt").write_text(f"Film {i}: Ödem.", encoding="utf-8")
        if i % 4 in (0, 1):
            mask = np.zeros((48, 48), np.uint8)
            mask[10:20, 10:30] = 255 if i % 4 == 0 else 0
            write_image(root / "masks" / f"{uid}.png", mask)
    columns = ["SOPInstanceUID", "Patient", "Sex", "Accession", "Stauung"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "export.csv", index=False)
    return EXPORT


def test_dicom_text_files_and_masks(tmp_path: Path) -> None:
    reader, records = read(tmp_path / "export", export(tmp_path / "export"))
    np.testing.assert_equal([r.labels["Edema"] for r in records[:4]], [1, 0, NAN, 1])
    assert [r.report for r in records[:4]] == ["", "Film 1: Ödem.", "", "Film 3: Ödem."]
    assert [r.sex for r in records[:3]] == ["M", "F", "M"] and math.isnan(records[0].age)
    assert np.abs(reader.load_image(records[1]).astype(int) - film(1, 48, 48)).max() <= 1, "a file without a suffix"
    table = built(study(tmp_path / "export", EXPORT))
    masks = open_store(StudyPaths(study(tmp_path / "export", EXPORT)).data("ours")).masks
    assert masks is not None and (table.mask_row >= 0).all()
    assert [bool(masks[row].any()) for row in table.mask_row[:4]] == [True, False, False, False]
    strict = EXPORT | {"masks": {"name": "Edema", "folder": "masks"}}
    assert [row >= 0 for row in built(study(tmp_path / "export", strict)).mask_row[:4]] == [True, False, False, False]


def test_the_doctor_knows_what_can_be_done(tmp_path: Path) -> None:
    options = export(tmp_path / "export")
    tasks = {
        "linear_probe": {"datasets": ["ours"], "targets": {"ours": {"labels": ["Edema"]}}},
        "few_shot": {"datasets": ["ours"], "targets": {"ours": {"labels": ["Hernia"]}}},
        "segmentation": {"datasets": ["ours"], "targets": {"ours": {"balanced": True}}},
        "detection": {"datasets": ["ours"]},
        "retrieval": {"datasets": ["ours"]},
    }
    report = doctor(study(tmp_path / "export", options, tasks=tasks))
    (health,) = report.datasets
    assert (health.state, health.counts["reports"], health.counts["masks"]) == ("ready", 12, 24)
    obstacles = {t.task: t.obstacle for t in report.tables}
    assert not obstacles["linear_probe"] and not obstacles["segmentation"] and not obstacles["retrieval"]
    assert "tasks.few_shot.targets.ours" in obstacles["few_shot"] and "'Hernia'" in obstacles["few_shot"]
    assert "has no boxes" in obstacles["detection"]
    without = {k: v for k, v in options.items() if k != "text_file"}
    report = doctor(study(tmp_path / "export", without, tasks=tasks))
    assert "name no reports" in {t.task: t.obstacle for t in report.tables}["retrieval"]


# --- what is wrong ----------------------------------------------------------------------------------------------------


def change(root: Path, table: str, line: int, column: str, cell: str) -> None:
    rows = pd.read_csv(root / table, dtype=str, keep_default_na=False)
    rows.loc[line - 2, column] = cell
    rows.to_csv(root / table, index=False)


NIH, CHEX, EXP = (nih_like, "entries.csv"), (chexpert_like, "train.csv"), (export, "export.csv")


@pytest.mark.parametrize(
    ("layout", "line", "column", "cell", "problem", "fix"),
    [
        (NIH, 5, "Image Index", "absent.png", "names a file that is not there", "absent_films"),
        (NIH, 5, "Image Index", "", "'Image Index' is empty", "fill it in"),
        (NIH, 5, "Image Index", "../etc/passwd", "is no plain name", "below that folder"),
        (NIH, 5, "Image Index", "0000_1", "is the same film as in line 3", "one row a film"),
        (NIH, 5, "Patient ID", "", "'Patient ID' is empty", "fill it in"),
        (NIH, 5, "Patient Gender", "2", "'2', no sex", "sex.words"),
        (NIH, 5, "Patient Age", "412", "'412', no age", "empty the cell"),
        (NIH, 5, "Finding Labels", "Edema|Emphysema", "unknown finding 'emphysema'", "findings.others"),
        (NIH, 5, "Finding Labels", "No Finding|Edema", "beside a finding", "correct it"),
        (CHEX, 7, "Edema", "2", "'2', which is no value of the label 'Edema'", "labels.Edema"),
        (CHEX, 7, "fold", "9", "'9', a part is train, val or test", "split.words"),
        (CHEX, 7, "fold", "2", "the patient is in test, and in line 5 in validate", "one part"),
        (CHEX, 7, "Path", "view1_frontal.jpg", "of which there are several", "path below"),
        (EXP, 9, "Stauung", "jein", "'jein', which is no value of the label 'Edema'", "labels.Edema"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_row(
    layout: Any, line: int, column: str, cell: str, problem: str, fix: str, tmp_path: Path
) -> None:
    write, table = layout
    options = write(tmp_path / "data")
    read(tmp_path / "data", options)
    change(tmp_path / "data", table, line, column, cell)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "data", options)
    assert f"{table}: line {line}: " in str(caught.value) and problem in str(caught.value)
    assert fix in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("Image Index", "other.png", "is no film of entries.csv"),
        ("x", "left", "four numbers"),
        ("Finding", "Edema", "'Edema'"),
    ],
)
def test_what_is_wrong_with_a_box(column: str, cell: str, problem: str, tmp_path: Path) -> None:
    options = nih_like(tmp_path / "data")
    change(tmp_path / "data", "boxes.csv", 3, column, cell)
    with pytest.raises(UserError, match=rf"boxes\.csv: line 3: .*{problem}"):
        read(tmp_path / "data", options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"sex": "Gender"}, r"entries\.csv: lacks the column 'Gender'.*Fix: name columns"),
        ({"image": "image index"}, r"lacks the column 'image index' \(it has 'Image Index'\)"),
        ({"table": "nowhere.csv"}, r"nowhere\.csv: is missing"),
        ({"folder": "nowhere"}, r"nowhere: there is no such folder.*options\.folder"),
        ({"lables": ["Edema"]}, r"lables.*unknown key"),
        ({"text": "a", "text_file": "b"}, "give text or text_file"),
        ({"labels": {"Edema": {"column": "Patient ID"}}}, "the label 'Edema' is given twice"),
        ({"masks": {"name": "Edema"}}, "give file or folder"),
        ({"patient": {"column": "Patient ID", "pattern": "("}}, "no regular expression"),
        ({"sex": {"column": "Patient Gender", "words": {True: "F"}}}, "put it in quotes"),
    ],
)
def test_what_is_wrong_with_the_options(options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=problem):
        read(tmp_path / "data", nih_like(tmp_path / "data") | options)


def test_absent_films_may_be_left_out_and_are_counted(tmp_path: Path) -> None:
    options = nih_like(tmp_path / "data") | {"absent_films": "leave_out"}
    (tmp_path / "data/images_003/images/0001_0.png").unlink()
    reader, validated = resolve(study(tmp_path / "data", options), "ours")
    assert len(reader.records(tmp_path / "data", validated)) == 39
    assert reader.notes(tmp_path / "data", validated) == ["1 of 40 films of the table are not there: left out"]


def test_a_film_that_cannot_be_decoded_is_named_with_its_line(tmp_path: Path) -> None:
    options = nih_like(tmp_path / "data")
    (tmp_path / "data/images_003/images/0001_0.png").write_bytes(b"no picture")
    at = study(tmp_path / "data", options)
    with pytest.raises(UserError, match=r"lists 1 of 40 images .*cannot be decoded.*\(entries\.csv, line 4\)"):
        build_store("ours", at, 1)
    assert "entries.csv, line 4" in doctor(at).datasets[0].problem


def test_text_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    options = export(tmp_path / "data")
    with pytest.raises(
        UserError, match=r"export\.csv: line 2: 'Accession' names a file that is not there.*absent_texts"
    ):
        read(tmp_path / "data", options | {"absent_texts": "error"})
    (tmp_path / "data/texts/A001.txt").write_bytes(b"\xd6dem")
    with pytest.raises(UserError, match=r"export\.csv: line 3: the text that 'Accession' names cannot be read.*UTF-8"):
        read(tmp_path / "data", options)


def test_a_changed_table_changes_the_store_and_a_lost_label_the_column(tmp_path: Path) -> None:
    """The table is what the store depends on; labels, views and persons are read from it, not guessed."""
    options = nih_like(tmp_path / "data")
    before = built(study(tmp_path / "data", options))
    change(tmp_path / "data", "entries.csv", 2, "Finding Labels", "Mass")
    change(tmp_path / "data", "entries.csv", 2, "View Position", "lateral")
    after = built(study(tmp_path / "data", options))
    assert (before["label.Mass"][0], after["label.Mass"][0], after["view"][0]) == (0, 1, "LATERAL")
    fewer = options | {"findings": {"column": "Finding Labels", "names": ["Mass"], "others": "ignore"}}
    assert [c for c in built(study(tmp_path / "data", fewer)) if c.startswith("label.")] == ["label.Mass"]


def test_patients_of_two_folders_are_two_and_of_one_folder_one(tmp_path: Path) -> None:
    """Both hospitals call their first patient 0."""
    for name in ("here", "there"):
        chexpert_like(tmp_path / name)
    configs = {name: {"reader": "image_csv", "options": CHEXPERT_LIKE} for name in ("here", "there")}
    configs["again"] = configs["here"] | {"root": str(tmp_path / "here")}
    at = study_of(tmp_path, configs, tasks={}, pretrain={"datasets": []})
    for name in configs:
        build_store(name, at, 1)
    here, there, again = (
        set(open_store(StudyPaths(at).data(name)).records.patient_id) for name in ("here", "there", "again")
    )
    assert here == again and not here & there
