"""Data sets as people really have them: another release, a part of one, spread over disks, with side files among them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlip.data.build import build_store
from mlip.data.catalogue import readers
from mlip.data.formats.files import walk_files
from mlip.data.records import Record
from mlip.errors import UserError
from mlip.run.doctor import doctor
from tests.data.layouts import WRITERS, study_of, write_covidx, write_mimic, write_nih, write_rsna, write_siim

METADATA = "mimic-cxr-2.0.0-metadata.csv.gz"


def read(name: str, root: Path, **options: Any) -> tuple[str, list[Record], dict[str, int], list[str]]:
    """Version, records, the complete release's counts and the notes."""
    reader = readers()[name]
    asked = reader.Options.model_validate(options)
    version = reader.verify(root, asked)
    return version, reader.records(root, asked), reader.complete(version, asked), reader.notes(root, asked)


def test_siim_as_the_competition_gives_it_today(tmp_path: Path) -> None:
    write_siim(tmp_path)
    before = read("siim", tmp_path)
    assert (before[0], before[2]) == ("stage 1", {"images": 10_675})
    text = (tmp_path / "train-rle.csv").read_text(encoding="utf-8")
    (tmp_path / "stage_2_train.csv").write_text(text.replace(", ", ","), encoding="utf-8")
    version, both, complete, _ = read("siim", tmp_path)
    assert (version, complete) == ("stage 2", {"images": 12_047})
    assert read("siim", tmp_path, version="stage 1")[0] == "stage 1"
    (tmp_path / "train-rle.csv").unlink()
    (tmp_path / "stage_2_images").mkdir()
    for film in sorted((tmp_path / "dicom-images-train").rglob("*.dcm")):
        film.rename(tmp_path / "stage_2_images" / film.name)
    (tmp_path / "dicom-images-train").rename(tmp_path / "elsewhere")
    moved = read("siim", tmp_path)[1]
    assert [r.labels["Pneumothorax"] for r in moved] == [r.labels["Pneumothorax"] for r in both]
    assert sum(r.labels["Pneumothorax"] for r in moved) == 8
    assert all(r.path.is_file() for r in moved)
    for film in sorted((tmp_path / "stage_2_images").iterdir()):  # the second test's films have other names
        film.rename(film.with_name(f"ID_{film.name}"))
    with pytest.raises(UserError, match=r"stage_2_train\.csv: none of its 12 films .* have no masks\).*stage 1"):
        read("siim", tmp_path)


def test_a_renamed_table_of_stage_2_is_known_by_its_length(tmp_path: Path) -> None:
    write_siim(tmp_path, images=1)
    rows = "\n".join(f"film-{i},-1" for i in range(10_676))
    (tmp_path / "train-rle.csv").write_text(f"ImageId,EncodedPixels\n{rows}\n", encoding="utf-8")
    reader = readers()["siim"]
    assert reader.verify(tmp_path, reader.Options.model_validate({})) == "stage 2"


def test_both_tables_of_nih(tmp_path: Path) -> None:
    write_nih(tmp_path)
    old = (tmp_path / "Data_Entry_2017.csv").read_text(encoding="utf-8")
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(old.replace("Hernia|", ""), encoding="utf-8")
    for options, version, hernias in (
        ({}, "v2020", 0),
        ({"version": "2017"}, "2017", 2),
        ({"version": "v2020"}, "v2020", 0),
    ):
        found, records, _, _ = read("nih", tmp_path, **options)
        assert (found, sum(r.labels["Hernia"] for r in records)) == (version, hernias)
    next(tmp_path.rglob("00000001_000.png")).unlink()
    assert read("nih", tmp_path)[3] == ["1 of 8 films of the table are not unpacked: left out"]


def test_nih_findings_and_boxes_that_cannot_be(tmp_path: Path) -> None:
    write_nih(tmp_path)
    for file, old, new, said in (
        ("Data_Entry_2017.csv", "Hernia|", "No Finding|", r"line 5: has 'No Finding' beside 'Mass'"),
        ("Data_Entry_2017.csv", "Hernia|", "Henria|", r"line 5: has the unknown finding 'Henria'"),
        (
            "BBox_List_2017.csv",
            "Infiltrate",
            "Hernia",
            r"line 2: 'Finding Label' is 'Hernia', it is one of Atelectasis",
        ),
        ("test_list.txt", "0000", "00000001_000.png\n0000", r"lists 1 films of train_val_list\.txt too"),
    ):
        original = (tmp_path / file).read_text(encoding="utf-8")
        (tmp_path / file).write_text(original.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(UserError, match=said):
            read("nih", tmp_path)
        (tmp_path / file).write_text(
            original.replace("Infiltrate", " infiltrate ") + ",,,,,,,,\n" * ("csv" in file), "utf-8"
        )
        assert len(read("nih", tmp_path)[1]) == 8
        (tmp_path / file).write_text(original, encoding="utf-8")


def test_films_of_mimic_that_have_no_view(tmp_path: Path) -> None:
    write_mimic(tmp_path)
    table = pd.read_csv(tmp_path / METADATA, dtype=str)
    table.loc[[0, 2], "ViewPosition"] = None
    table.to_csv(tmp_path / METADATA, index=False)
    assert len(read("mimic_cxr", tmp_path)[1]) == 4
    for nameless in ("", "nan", " "):
        assert len(read("mimic_cxr", tmp_path, views=["pa", nameless])[1]) == 6
    with pytest.raises(UserError, match=r"no film has a view of options\.views \('LL'\).*'LATERAL', 'PA', ''"):
        read("mimic_cxr", tmp_path, views=["LL"])


def test_a_part_of_mimics_patients(tmp_path: Path) -> None:
    write_mimic(tmp_path)
    for patient, left in ((0, 5), (2, 4)):
        shutil.rmtree(tmp_path / f"files/p10/p1000000{patient}")
        _, records, _, notes = read("mimic_cxr", tmp_path)
        assert len(records) == left
        assert all(r.report for r in records)
        assert notes == [f"{6 - left} of 6 patients of the table are not unpacked: left out"]


def test_a_view_that_was_not_downloaded_is_named(tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimic_cxr")
    for film in tmp_path.rglob("*-LATERAL.jpg"):
        film.unlink()
    study = study_of(tmp_path, {"mimic_cxr": {"options": {"views": ["PA", "LATERAL"]}}})
    health = doctor(study).datasets[0]
    assert (health.state, health.missing) == ("damaged", 6)
    assert health.next_step.endswith(
        "no film of view LATERAL was found: leave it out of datasets.mimic_cxr.options.views"
    )


def test_later_releases_of_covidx(tmp_path: Path) -> None:
    write_covidx(tmp_path)
    assert read("covidx", tmp_path)[2] == {"images": 30_530}
    for part in ("train", "test"):
        text = (tmp_path / f"{part}_COVIDx9A.txt").read_text(encoding="utf-8")
        for three, two in (("normal", "negative"), ("pneumonia", "Negative"), ("COVID-19", "positive")):
            text = text.replace(three, two)
        (tmp_path / f"{part}.txt").write_text(text, encoding="utf-8")
        (tmp_path / f"{part}_COVIDx9A.txt").unlink()
    with pytest.raises(
        UserError, match=r"version 9A is missing, found test\.txt, train\.txt.*what is there: two_class"
    ):
        read("covidx", tmp_path)
    assert len(read("covidx", tmp_path, version="two_class")[1]) == 24
    shutil.copytree(tmp_path / "test", tmp_path / "val")
    shutil.copy(tmp_path / "test.txt", tmp_path / "val.txt")
    for version, complete in (("two_class", {}), ("CXR-4", {"images": 84_818})):
        _, records, count, _ = read("covidx", tmp_path, version=version)
        assert [r.official_split for r in records] == ["train"] * 12 + ["validate"] * 12 + ["test"] * 12
        assert count == complete
    with pytest.raises(UserError, match="what is there: CXR-4"):
        read("covidx", tmp_path)
    with (tmp_path / "val.txt").open("a", encoding="utf-8") as file:
        file.write("\n7 test0.png negative\n")
    with pytest.raises(UserError, match=r"val\.txt: line 14 lists the film of line 1 again"):
        read("covidx", tmp_path, version="CXR-4")


@pytest.mark.parametrize("name", WRITERS)
def test_side_files_are_passed_over(name: str, tmp_path: Path) -> None:
    write: Any = WRITERS[name]
    write(tmp_path)
    before = repr(read(name, tmp_path))
    for file in [p for p in tmp_path.rglob("*") if p.is_file()]:
        (file.parent / f"._{file.name}").write_bytes(b"\0\5\26\7")
        (file.parent / "@eaDir").mkdir(exist_ok=True)
        (file.parent / "@eaDir" / file.name).write_bytes(b"thumbnail")
        for left in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (file.parent / left).write_bytes(b"?")
    assert repr(read(name, tmp_path)) == before


def test_folders_on_other_disks_are_followed_once(tmp_path: Path) -> None:
    write_siim(tmp_path / "siim")
    expected = [(r.image_id, r.labels, r.mask) for r in read("siim", tmp_path / "siim")[1]]
    films, disk = tmp_path / "siim" / "dicom-images-train", tmp_path / "disk"
    films.rename(disk)
    films.mkdir()
    for link, target in (
        ("part1", disk),
        ("again", disk),
        ("loop", films),
        ("nowhere", tmp_path / "no"),
        ("self", films / "self"),
    ):
        (films / link).symlink_to(target)
    records = read("siim", tmp_path / "siim")[1]
    assert [(r.image_id, r.labels, r.mask) for r in records] == expected
    assert all(r.path.is_file() for r in records)
    assert len(list(walk_files(films, ".dcm"))) == 12


def test_the_doctor_and_the_store_refuse_the_same_records(tmp_path: Path) -> None:
    write_siim(tmp_path / "siim")
    study = study_of(tmp_path, {"siim": {}})
    reader, records = readers()["siim"], read("siim", tmp_path / "siim")[1]
    blank = [Record(r.path, r.image_id, " ", r.study_id) for r in records]
    wrong = [Record(r.path, r.image_id, r.patient_id, r.study_id, labels={"Pneumothorax": 2.0}) for r in records]
    for made, said in (
        ([*records, records[0]], r"lists an image twice \(1 rows too many\)"),
        (blank, "has no patient_id for 12 of 12 images"),
        (wrong, "has a label that is 2"),
        ([], "no image is left after the options were applied"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(reader), "records", lambda *_, made=made: made)
            with pytest.raises(UserError, match=said) as refused:
                build_store("siim", study, 1)
            health = doctor(study).datasets[0]
        assert health.state == "damaged"
        assert f"{health.problem}. Fix: {health.next_step}" == str(refused.value)


def test_data_without_reports_cannot_be_pretrained_on(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna")
    tasks = {"zero_shot": {"datasets": ["rsna"]}}
    report = doctor(study_of(tmp_path, {"rsna": {}}, tasks=tasks))
    assert report.datasets[0].state == "ready"
    assert report.tables[0].obstacle == "nothing to pre-train on: rsna has no reports"
    assert not report.ok
    assert doctor(study_of(tmp_path, {"rsna": {}}, tasks=tasks, methods={"include": ["random"]})).ok
