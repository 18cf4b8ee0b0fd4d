"""Every reader on its real layout, and on layouts that lack something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlip.data.catalogue import readers
from mlip.data.readers.chexpert import COMPETITION
from mlip.data.readers.covid_chestxray import findings
from mlip.data.records import Reader, Record
from mlip.errors import UserError
from tests.data.layouts import WRITERS, siim_masks, write_chexpert, write_image, write_mimic
from tests.ours import our_readers


def read(name: str, root: Path, **options: Any) -> tuple[Reader, list[Record], str]:
    reader = readers()[name]
    validated = reader.Options.model_validate(options)
    version = reader.verify(root, validated)
    return reader, reader.records(root, validated), version


def test_every_reader_says_what_it_reads() -> None:
    assert set(our_readers()) == {
        "mimic_cxr",
        "chexpert",
        "rsna",
        "siim",
        "covidx",
        "object_cxr",
        "nih",
        "covid_chestxray",
        "iu_xray",
        "image_csv",
    }
    for reader in readers().values():
        assert all(
            (
                reader.title,
                reader.citation,
                reader.access.startswith("https://") or reader.own,
                reader.layout,
                reader.versions,
                reader.uncertainty,
            )
        )


@pytest.mark.parametrize("name", WRITERS)
def test_records_are_ordered_typed_and_loadable(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    reader, records, version = read(name, tmp_path)
    assert version in reader.versions
    assert repr(records) == repr(read(name, tmp_path)[1])  # NaN labels are not equal to themselves
    assert len({r.image_id for r in records}) == len(records)
    for record in records:
        assert set(record.labels) == set(reader.labels)
        assert {b.category for b in record.boxes} <= set(reader.box_categories)
        image = reader.load_image(record)
        assert image.dtype == np.uint8
        mask = reader.load_mask(record)
        assert (mask is not None) == bool(reader.mask_name and record.mask is not None)
        assert mask is None or (mask.shape == image.shape and mask.dtype == np.uint8 and mask.max() <= 1)


@pytest.mark.parametrize("name", [*WRITERS, "nih", "covid_chestxray", "iu_xray"])
def test_a_missing_root_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: there is no such folder\. Fix: "):
        read(name, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "table", "column"),
    [
        ("mimic_cxr", "mimic-cxr-2.0.0-metadata.csv.gz", "ViewPosition"),
        ("mimic_cxr", "mimic-cxr-2.0.0-chexpert.csv.gz", "Edema"),
        ("chexpert", "train.csv", "Frontal/Lateral"),
        ("rsna", "stage_2_train_labels.csv", "Target"),
        ("siim", "train-rle.csv", "EncodedPixels"),
        ("object_cxr", "dev.csv", "annotation"),
        ("nih", "Data_Entry_2017.csv", "Finding Labels"),
        ("covid_chestxray", "metadata.csv", "finding"),
    ],
)
def test_a_missing_column_or_table_is_named_with_its_file(name: str, table: str, column: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    path = tmp_path / table
    kept = pd.read_csv(path, dtype=str)
    kept.columns = kept.columns.str.strip()
    kept.drop(columns=column).to_csv(path, index=False)
    with pytest.raises(UserError, match=f"{table}: lacks the column '{column}'"):
        read(name, tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"{table.removesuffix('.gz')}.*: is missing"):
        read(name, tmp_path)


def test_unknown_options_are_refused() -> None:
    for reader in readers().values():
        with pytest.raises(ValueError, match="colour"):
            reader.Options.model_validate({"colour": 1})


def test_mimic_keeps_frontal_views_and_raw_reports(tmp_path: Path) -> None:
    write_mimic(tmp_path)
    _, records, version = read("mimic_cxr", tmp_path)
    assert version == "2.0.0"
    assert [r.view for r in records] == ["PA"] * 6
    assert records[1].report == "FINDINGS: Film number 1.\nIMPRESSION: Edema.\n"
    assert records[0].labels["Edema"] == -1
    assert np.isnan(records[0].labels["Fracture"])
    assert [r.official_split for r in records][-2:] == ["validate", "test"]
    assert len(read("mimic_cxr", tmp_path, views=["PA", "LATERAL"])[1]) == 12


def test_mimic_version_and_reports_elsewhere(tmp_path: Path) -> None:
    write_mimic(tmp_path / "jpg", zipped=False)
    (tmp_path / "jpg" / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text("study_id\n", encoding="utf-8")
    (tmp_path / "reports").mkdir()
    for report in sorted((tmp_path / "jpg" / "files").rglob("s*.txt")):
        target = tmp_path / "reports" / report.relative_to(tmp_path / "jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        report.rename(target)
    with pytest.raises(UserError, match=r"jpg/files: holds no report.*reports_root"):
        read("mimic_cxr", tmp_path / "jpg")
    _, records, version = read("mimic_cxr", tmp_path / "jpg", reports_root=tmp_path / "reports")
    assert version == "2.1.0"
    assert all(r.report for r in records)


def test_wrong_versions_are_named(tmp_path: Path) -> None:
    write_mimic(tmp_path / "m", prefix="mimic-cxr-1.0.0")
    with pytest.raises(UserError, match=r"is version 1\.0\.0, supported are 2\.0\.0, 2\.1\.0"):
        read("mimic_cxr", tmp_path / "m")
    WRITERS["rsna"](tmp_path / "r")
    (tmp_path / "r" / "stage_2_train_labels.csv").rename(tmp_path / "r" / "stage_1_train_labels.csv")
    with pytest.raises(UserError, match="is stage 1, supported is stage 2"):
        read("rsna", tmp_path / "r")
    WRITERS["covidx"](tmp_path / "c")
    with pytest.raises(UserError, match=r"train\.txt: version two_class is missing, found test_COVIDx9A\.txt"):
        read("covidx", tmp_path / "c", version="two_class")


def test_another_version_than_the_one_asked_for_is_named(tmp_path: Path) -> None:
    write_mimic(tmp_path)
    assert read("mimic_cxr", tmp_path, version="2.0.0")[2] == "2.0.0"
    with pytest.raises(
        UserError, match=r"is version 2\.0\.0, options\.version asks for 2\.1\.0.*Fix: obtain version 2\.1\.0"
    ):
        read("mimic_cxr", tmp_path, version="2.1.0")
    with pytest.raises(UserError, match=r"options\.version is '2\.2', supported are 2\.0\.0, 2\.1\.0"):
        read("mimic_cxr", tmp_path, version="2.2")
    (tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text("study_id\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"is version 2\.1\.0, options\.version asks for 2\.0\.0"):
        read("mimic_cxr", tmp_path, version="2.0.0")


def change_table(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("name", "table"),
    [("chexpert", "train.csv"), ("chexpert", "valid.csv"), ("mimic_cxr", "mimic-cxr-2.0.0-chexpert.csv.gz")],
)
def test_exchanged_label_columns_are_named(name: str, table: str, tmp_path: Path) -> None:
    swap = {"Edema": "Pneumonia", "Pneumonia": "Edema"}
    WRITERS[name](tmp_path)
    change_table(tmp_path / table, lambda t: t.rename(columns=swap))
    with pytest.raises(
        UserError,
        match=rf"{table}: has the label column 'Pneumonia' where the official table has 'Edema'.*Fix: use the unm",
    ):
        read(name, tmp_path)


def test_labels_that_contradict_themselves_are_named(tmp_path: Path) -> None:
    write_chexpert(tmp_path)
    path = tmp_path / "train.csv"
    original = path.read_text(encoding="utf-8")

    def exchanged_contents(table: pd.DataFrame) -> pd.DataFrame:
        table["No Finding"], table["Edema"] = table["Edema"], "1.0"
        return table

    change_table(path, exchanged_contents)
    with pytest.raises(UserError, match=r"train\.csv: line \d+: 'No Finding' is 1 beside 'Edema'"):
        read("chexpert", tmp_path)
    path.write_text(original, encoding="utf-8")
    change_table(path, lambda t: t.rename(columns={"Age": "Fracture", "Fracture": "Age"}))
    with pytest.raises(UserError, match=r"has the label column 'Fracture' where the official table has 'No Finding'"):
        read("chexpert", tmp_path)
    path.write_text(original, encoding="utf-8")
    change_table(path, lambda t: t.assign(Fracture=t["Age"]))
    with pytest.raises(UserError, match=r"train\.csv: line 2: 'Fracture' is '50', a label is 1, 0, -1 or empty"):
        read("chexpert", tmp_path)


def test_an_exchanged_target_of_rsna_is_named(tmp_path: Path) -> None:
    WRITERS["rsna"](tmp_path)
    path = tmp_path / "stage_2_train_labels.csv"
    original = path.read_text(encoding="utf-8")
    change_table(path, lambda t: t.rename(columns={"Target": "width", "width": "Target"}))
    with pytest.raises(UserError, match=r"stage_2_train_labels\.csv: line \d+: Target is (nan|10|9) beside (a|no) box"):
        read("rsna", tmp_path)
    path.write_text(original, encoding="utf-8")
    change_table(path, lambda t: t.assign(Target="0"))
    with pytest.raises(UserError, match=r"line \d+: Target is 0 beside a box"):
        read("rsna", tmp_path)
    path.write_text(original, encoding="utf-8")
    change_table(path, lambda t: t.assign(x="left"))
    with pytest.raises(UserError, match=r"line 2: 'x' is 'left', no number"):
        read("rsna", tmp_path)


@pytest.mark.parametrize("small", [False, True])
def test_chexpert_strips_the_prefix_and_keeps_raw_labels(small: bool, tmp_path: Path) -> None:
    write_chexpert(tmp_path, small=small)
    _, records, version = read("chexpert", tmp_path)
    assert version == ("v1.0-small" if small else "v1.0")
    assert all("frontal" in r.image_id and r.path.is_file() for r in records)
    assert {r.official_split for r in records} == {"train", "test"}
    values = {v for r in records for v in r.labels.values() if not np.isnan(v)}
    assert values == {1.0, -1.0}


def test_chexpert_five_by_200_is_exclusive_balanced_and_disjoint_by_patient(tmp_path: Path) -> None:
    write_chexpert(tmp_path, per_class=4)
    reader, subset, _ = read("chexpert", tmp_path, subset="five_by_200")
    labels = np.nan_to_num(np.array([[r.labels[c] for c in COMPETITION] for r in subset]))
    assert (labels.sum(axis=0) == 3).all()  # Edema has three exclusive positives: so many of each
    assert (np.abs(labels).sum(axis=1) == 1).all()
    note = reader.notes(tmp_path, reader.Options(subset="five_by_200"))  # type: ignore[attr-defined]
    assert "3 exclusive positives per class (200 were asked for" in note[0]
    assert repr(subset) == repr(read("chexpert", tmp_path, subset="five_by_200")[1])
    rest = read("chexpert", tmp_path, exclude_five_by_200=True)[1]
    assert not {r.patient_id for r in rest} & {r.patient_id for r in subset}
    assert len(rest) == len(read("chexpert", tmp_path)[1]) - 2 * 15  # each patient has a second frontal film


def test_rsna_boxes_and_filled_mask(tmp_path: Path) -> None:
    WRITERS["rsna"](tmp_path)
    reader, records, _ = read("rsna", tmp_path)
    assert [r.labels["Pneumonia"] for r in records] == [1.0, 0, 0] * 4
    assert [len(r.boxes) for r in records[:4]] == [2, 0, 0, 1]
    mask = reader.load_mask(records[0])
    assert mask is not None
    assert mask.sum() == 10 * 20 + 9 * 18
    assert mask[6:26, 4:14].all()


def test_siim_unites_the_rows_of_an_image(tmp_path: Path) -> None:
    WRITERS["siim"](tmp_path)
    reader, records, _ = read("siim", tmp_path)
    by_number = {int(r.image_id.split(".")[-1]): r for r in records}
    for i, record in by_number.items():
        expected = np.maximum.reduce([np.zeros((48, 48), np.uint8), *siim_masks(i)])
        np.testing.assert_array_equal(reader.load_mask(record), expected)
        assert record.labels["Pneumothorax"] == float(bool(siim_masks(i)))
    assert read("siim", tmp_path, patient_from_dicom=True)[1][0].patient_id == "raw-patient-id"


def test_covidx_classes(tmp_path: Path) -> None:
    WRITERS["covidx"](tmp_path)
    records = read("covidx", tmp_path)[1]
    assert [sum(r.labels.values()) for r in records] == [1.0] * 24
    for part in ("train", "test"):
        lines = (
            (tmp_path / f"{part}_COVIDx9A.txt")
            .read_text(encoding="utf-8")
            .replace("normal", "negative")
            .replace("pneumonia", "negative")
            .replace("COVID-19", "positive")
        )
        (tmp_path / f"{part}.txt").write_text(lines, encoding="utf-8")
    two = read("covidx", tmp_path, version="two_class")[1]
    assert [r.labels["COVID-19"] for r in two] == [r.labels["COVID-19"] for r in records]
    assert np.isnan(two[0].labels["normal"])


def test_object_cxr_shapes(tmp_path: Path) -> None:
    WRITERS["object_cxr"](tmp_path)
    records = read("object_cxr", tmp_path)[1]
    assert [len(r.boxes) for r in records[:3]] == [0, 1, 2]
    polygon = records[2].boxes[1]
    assert (polygon.x, polygon.y, polygon.width, polygon.height) == (20, 30, 8, 10)
    (tmp_path / "train.csv").write_text("image_name,annotation\n00000.jpg,7 1 2 3 4\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.csv: line 2: the annotation '7 1 2 3 4'"):
        read("object_cxr", tmp_path)


def test_iu_xray_reports_and_images(tmp_path: Path) -> None:
    (tmp_path / "ecgen-radiology").mkdir()
    (tmp_path / "ecgen-radiology" / "7.xml").write_text(
        "<eCitation><Abstract><AbstractText Label='FINDINGS'>Clear lungs.</AbstractText>"
        "<AbstractText Label='IMPRESSION'>Normal.</AbstractText></Abstract>"
        "<parentImage id='CXR7_IM-1'/><parentImage id='CXR7_IM-2'/></eCitation>",
        encoding="utf-8",
    )
    for number in (1, 2):
        write_image(tmp_path / "NLMCXR_png" / f"CXR7_IM-{number}.png", np.zeros((9, 8), np.uint8))
    reader, records, _ = read("iu_xray", tmp_path)
    assert [r.image_id for r in records] == ["CXR7_IM-1", "CXR7_IM-2"]
    assert records[0].report == "FINDINGS: Clear lungs.\nIMPRESSION: Normal."
    assert reader.load_image(records[0]).shape == (9, 8)


def test_covid_findings_of_old_and_new_tables() -> None:
    assert findings("COVID-19, ARDS") == findings("Pneumonia/Viral/COVID-19") == {"COVID-19": 1.0, "Pneumonia": 1.0}
    assert findings("Klebsiella") == findings("Pneumonia/Bacterial") == {"COVID-19": 0.0, "Pneumonia": 1.0}
    assert findings("No Finding") == {"COVID-19": 0.0, "Pneumonia": 0.0}
    assert all(np.isnan(v) for t in ("todo", "Unknown") for v in findings(t).values())


def test_real_nih_films(shared: Path) -> None:
    root = shared / "data" / "nih-chestxray14"
    reader, records, version = read("nih", root, templated_captions=True)
    assert (version, len(records), len({r.patient_id for r in records})) == ("2017", 795, 535)
    assert sum(r.labels["Pneumonia"] for r in records) == 377
    assert sum(r.labels["No Finding"] for r in records) == 418
    boxed = next(r for r in records if r.image_id == "00010277_000.png")
    assert boxed.boxes[0].category == "Pleural Effusion"
    assert boxed.boxes[0].x == pytest.approx(863.004 * 320 / 1024, abs=0.01)
    assert reader.load_image(boxed).shape == (320, 320)
    plain = next(r for r in records if r.labels["No Finding"])
    assert plain.report == "FINDINGS: No finding is reported."


def test_real_covid_films(shared: Path) -> None:
    root = shared / "data" / "covid-chestxray"
    reader, records, _ = read("covid_chestxray", root)
    assert (len(records), len({r.patient_id for r in records})) == (319, 183)
    assert sum(bool(r.report) for r in records) == len(read("covid_chestxray", root, only="with_notes")[1]) == 215
    masked = read("covid_chestxray", root, only="with_masks")[1]
    assert len(masked) == 192
    image, mask = reader.load_image(masked[0]), reader.load_mask(masked[0])
    assert mask is not None
    assert mask.shape == image.shape
    assert 0.05 < mask.mean() < 0.6
    assert all({b.category for b in r.boxes} == {"Right Lung", "Left Lung"} for r in records)
    assert len(read("covid_chestxray", root, only="labelled")[1]) == 319 - 51
