"""Planted faults must be named, clean data must pass, resemblance alone must not count."""

from __future__ import annotations

import re
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mlip.data import duplicates
from mlip.data.audit import AuditReport, audit
from mlip.data.build import build_store
from mlip.data.decode import difference_hash
from mlip.data.division import build_splits
from mlip.data.duplicates import CROWD, joins, near_duplicates
from mlip.data.formats.files import is_flat
from mlip.data.splits import content_hash, read_splits
from mlip.data.store import Store, open_store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.study import Study
from tests.data.layouts import WRITERS, film, study_of, write_covidx, write_dicom, write_image, write_rsna


def built(study: Study) -> Study:
    for name in study.datasets:
        build_store(name, study, 1)
        build_splits(name, study, max(t.draws for t in study.tasks.values()))
    return study


def rewrite(path: Path, splits: pd.DataFrame) -> None:
    """Write an edited split table as if the program had made it."""
    table = pa.Table.from_pandas(splits, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({b"content": content_hash(splits).encode()}), path)


def faults(report: AuditReport) -> list[str]:
    return [f.text for f in report.faults]


def test_clean_data_passes_and_the_report_says_what_was_checked(tmp_path: Path) -> None:
    for name in ("rsna", "siim"):
        WRITERS[name](tmp_path / name, images=40)
    # The two writers draw the same pictures: shift one, or the audit would rightly find them.
    write_rsna(tmp_path / "rsna", images=40, same_as={i: 1000 + i for i in range(40)})
    study = built(study_of(tmp_path, {"rsna": {}, "siim": {}}))
    report = audit(study)
    assert not faults(report)
    text = StudyPaths(study).audit.read_text(encoding="utf-8")
    assert "0 faults" in text
    assert "rsna / siim" in text


def test_the_same_film_in_pretraining_and_in_a_test_part(tmp_path: Path) -> None:
    for name in ("rsna", "siim"):
        WRITERS[name](tmp_path / name, images=30)
    study = built(study_of(tmp_path, {"rsna": {"split": "train_only"}, "siim": {}}))
    with pytest.raises(
        UserError,
        match=r"audit\.failed\.md: rsna / siim: 6 films of pre-training on rsna are the same as one in test of siim",
    ):
        audit(study)
    assert "| fault | same film |" in StudyPaths(study).audit.with_suffix(".failed.md").read_text(encoding="utf-8")


def test_a_duplicate_under_another_id_within_a_data_set(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", images=40, same_as={i: i - 20 for i in range(20, 40)})
    strict = built(study_of(tmp_path / "strict", {"rsna": {"root": str(tmp_path / "rsna")}}))
    assert not faults(audit(strict))
    assert "40 patients share a film" in StudyPaths(strict).splits("rsna").with_suffix(".json").read_text(
        encoding="utf-8"
    )
    study = built(study_of(tmp_path, {"rsna": {"split": "mgca-2022"}}))
    with pytest.raises(UserError, match=r"films of train are the same as one in (val|test) under another id"):
        audit(study)


def changed(film: np.ndarray, how: str) -> np.ndarray:
    """A copy as it turns up in another collection."""
    if how == "rescaled":
        return cv2.resize(film, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    if how == "brighter":
        return np.clip(film.astype(int) + 3, 0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_GRAYSCALE)


@pytest.mark.parametrize("how", ["rescaled", "brighter", "re-encoded"])
def test_a_lightly_changed_copy_is_found_within_and_across_data_sets(how: str, tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", images=12, same_as={i: 500 + i for i in range(12)})
    write_covidx(tmp_path / "covidx", images=12)
    write_image(tmp_path / "covidx" / "test" / "test3.png", changed(film(0, 192, 160), how))
    write_image(tmp_path / "covidx" / "train" / "train0.png", film(0, 192, 160))
    write_dicom(tmp_path / "rsna" / "stage_2_train_images" / "patient-0007.dcm", film(0, 192, 160))
    study = built(study_of(tmp_path, {"rsna": {"split": "train_only"}, "covidx": {"split": "official"}}))
    with pytest.raises(UserError):
        audit(study)
    text = StudyPaths(study).audit.with_suffix(".failed.md").read_text(encoding="utf-8")
    ids = [open_store(StudyPaths(study).data(name)).records.image_id for name in ("rsna", "covidx")]
    assert f"covidx row 0 ({ids[1][0]}) = covidx row 15 ({ids[1][15]})" in text
    assert f"rsna row 7 ({ids[0][7]}) = covidx row 15 ({ids[1][15]})" in text
    assert text.count("| fault | same film |") == 2
    assert "train0" not in text


def test_a_film_twice_in_one_part_is_a_warning(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", images=12, same_as={5: 4})
    report = audit(built(study_of(tmp_path, {"rsna": {"split": "train_only"}})))
    assert [f.level for f in report.findings if f.check == "same film"] == ["warning"]


def test_a_shared_patient(tmp_path: Path) -> None:
    write_covidx(tmp_path / "covidx", shared_patient=True)
    study = built(study_of(tmp_path, {"covidx": {"split": "official"}}))
    with pytest.raises(UserError, match=r"covidx: 1 patients are in (train|val) and in test"):
        audit(study)
    patient = open_store(StudyPaths(study).data("covidx")).records.patient_id[0]
    text = StudyPaths(study).audit.with_suffix(".failed.md").read_text(encoding="utf-8")
    assert re.search(rf"- patient {patient}: row 0 \((train|val)\), row 12 \(test\)", text)
    assert not faults(audit(built(study_of(tmp_path, {"covidx": {"split": "strict"}}))))


def test_two_data_sets_on_one_root(tmp_path: Path) -> None:
    WRITERS["chexpert"](tmp_path / "chexpert", per_class=12)
    root, options = str(tmp_path / "chexpert"), {"per_class": 3}
    subset = {"reader": "chexpert", "root": root, "options": options | {"subset": "five_by_200"}, "split": "test_only"}
    leaky = study_of(tmp_path, {"chexpert": {"options": options}, "five": subset})
    with pytest.raises(UserError, match=r"chexpert / five: \d+ patients train in chexpert and test in five"):
        audit(built(leaky))
    clean = study_of(tmp_path, {"chexpert": {"options": options | {"exclude_five_by_200": True}}, "five": subset})
    assert not faults(audit(built(clean)))


def test_two_divisions_of_one_data_set_are_no_leak_unless_one_is_pretrained_on(tmp_path: Path) -> None:
    WRITERS["rsna"](tmp_path / "rsna", images=60)
    second = {"reader": "rsna", "root": str(tmp_path / "rsna"), "split": "mgca-2022"}
    datasets = {"rsna": {}, "rsna_mgca": second}
    tasks = {"linear_probe": {"datasets": list(datasets), "draws": 1, "fractions": [100]}}
    report = audit(built(study_of(tmp_path, datasets, tasks=tasks, pretrain={"datasets": []})))
    assert any("two divisions of one data set" in f.text for f in report.findings if f.level == "warning")
    seen = study_of(tmp_path, datasets, tasks=tasks, pretrain={"datasets": ["rsna"], "seeds": [0]})
    with pytest.raises(UserError, match=r"rsna / rsna_mgca: \d+ patients train in rsna and test in rsna_mgca"):
        audit(built(seen))


@pytest.mark.parametrize("rule", ["mgca-2022", "g2d-2024"])
def test_a_known_quirk_of_a_lineage_is_a_warning(tmp_path: Path, rule: str) -> None:
    WRITERS["siim"](tmp_path / "siim", images=60)
    report = audit(built(study_of(tmp_path, {"siim": {"split": rule}})))
    assert any(
        f.level == "warning" and "known quirk" in f.text and "rows of the csv" in f.text for f in report.findings
    )


@pytest.mark.parametrize("rule", ["mgca-2022", "g2d-2024"])
def test_a_quirk_between_training_and_validation_excuses_nothing_of_the_test_part(tmp_path: Path, rule: str) -> None:
    write_covidx(tmp_path / "covidx", images=40)
    listed = tmp_path / "covidx" / "train_COVIDx9A.txt"
    lines = listed.read_text(encoding="utf-8").splitlines()
    two_films_each = [f"{i // 2} {line.split(' ', 1)[1]}" for i, line in enumerate(lines)]
    listed.write_text("\n".join(two_films_each) + "\n", encoding="utf-8")
    report = audit(built(study_of(tmp_path, {"covidx": {"split": rule}})))
    assert any(f.level == "warning" and "known quirk" in f.text and "training list" in f.text for f in report.findings)
    tested = (tmp_path / "covidx" / "test_COVIDx9A.txt").read_text(encoding="utf-8").split()[0]
    listed.write_text("\n".join([f"{tested} {two_films_each[0].split(' ', 1)[1]}", *two_films_each[1:]]) + "\n")
    with pytest.raises(UserError, match=r"1 patients are in (train|val) and in test"):
        audit(built(study_of(tmp_path / "again", {"covidx": {"split": rule, "root": str(tmp_path / "covidx")}})))


def test_draws_that_are_not_nested_or_of_one_class(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", images=60)
    study = built(
        study_of(
            tmp_path, {"rsna": {}}, tasks={"linear_probe": {"datasets": ["rsna"], "draws": 2, "fractions": [1, 100]}}
        )
    )
    path = StudyPaths(study).splits("rsna")
    good = read_splits(path)
    outside = good.copy()
    outside.loc[outside.part == "test", "draw1"] = 1
    rewrite(path, outside)
    with pytest.raises(UserError, match="rows of draw1 are not in the training part"):
        audit(study)
    row = outside[outside.part == "test"].row.iloc[0]
    assert f"- rsna row {row} (" in StudyPaths(study).audit.with_suffix(".failed.md").read_text(encoding="utf-8")
    gap = good.copy()
    gap.loc[gap.index[gap.part == "train"][0], "draw0"] = 0
    rewrite(path, gap)
    with pytest.raises(UserError, match="draw0 is not nested"):
        audit(study)
    single = good.copy()
    positive = open_store(StudyPaths(study).data("rsna")).label("Pneumonia") == 1
    single.loc[(single.draw1 == 1) & positive, "draw1"] = 2
    rewrite(path, single)
    with pytest.raises(UserError, match=r"draw 1 at 1 % \(\d+ rows\) holds one class of Pneumonia"):
        audit(study)


def test_class_drift_is_a_warning_with_numbers(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", images=120)
    study = built(study_of(tmp_path, {"rsna": {}}))
    path = StudyPaths(study).splits("rsna")
    splits = read_splits(path)
    positive = open_store(StudyPaths(study).data("rsna")).label("Pneumonia") == 1
    splits["part"] = np.where(positive, "test", "train")
    splits.loc[splits.index[positive][:3], "part"] = "train"
    splits["draw0"] = splits["draw1"] = np.where(splits.part == "train", 5, 0)
    rewrite(path, splits)
    drift = [f for f in audit(study).findings if f.check == "class drift"]
    assert drift[0].level == "warning"
    assert drift[0].text == "Pneumonia: 3.6% of train, 100.0% of test"


def test_candidates_are_exactly_the_close_hashes(rng: np.random.Generator) -> None:
    a = rng.integers(0, 2**63, 300, dtype=np.uint64)
    b = rng.integers(0, 2**63, 400, dtype=np.uint64)
    for k in range(60):  # plant neighbours at distances 0..3
        flips = rng.choice(64, k % 4, replace=False)
        b[k] = a[k] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=np.uint64(0))
    found = {(int(i), int(j)) for join in joins(a, b) for block in join.pairs() for i, j in zip(*block, strict=True)}
    distance = np.bitwise_count(a[:, None] ^ b[None])
    assert found == set(map(tuple, np.argwhere(distance <= 2).tolist()))
    assert len(found) == 45


def test_equal_hashes_without_equal_pixels_do_not_count(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", images=4)
    study = study_of(tmp_path, {"rsna": {}})
    build_store("rsna", study, 1)
    store = open_store(StudyPaths(study).data("rsna"))
    store.records["dhash"] = np.uint64(7)
    assert not len(near_duplicates(store, np.arange(4), store, np.arange(4)))
    again = open_store(StudyPaths(study).data("rsna"))
    again.records["dhash"] = np.uint64(7)
    assert near_duplicates(store, np.arange(4), again, np.arange(4)).tolist() == [[i, i] for i in range(4)]


def planted(folder: Path, films: np.ndarray) -> Store:
    """A store of these films [N, S, S], with the hashes that a build would give them."""
    records = pd.DataFrame({"dhash": np.array([difference_hash(f) for f in films], np.uint64)})
    names = [f"{i:016x}" for i in range(len(films))]
    records = records.assign(flat=[is_flat(f) for f in films], image_id=names, patient_id=names)
    return Store(folder, films, None, records, {"labels": []})


def test_thousands_of_blank_films_are_the_same_as_none(tmp_path: Path) -> None:
    blank = np.repeat(np.arange(5000, dtype=np.uint8) % 4 * 60, 32 * 32).reshape(-1, 32, 32)
    films = np.concatenate([blank, [film(1, 32, 32), film(2, 32, 32), film(1, 32, 32)]])
    store = planted(tmp_path, films)
    started = time.monotonic()
    rows = np.arange(len(films))
    assert near_duplicates(store, rows, store, rows).tolist() == [[5000, 5002]]
    assert time.monotonic() - started < 5
    np.testing.assert_array_equal(store.flat_rows, rows[:5000])


def test_a_crowd_of_copies_is_held_together_by_few_pairs(tmp_path: Path) -> None:
    """5,000 copies of two films that differ by a grey level, and 300 distinct films of the same hash."""
    rng = np.random.default_rng(0)
    kinds = [film(1, 32, 32).astype(int) // 2, film(2, 32, 32).astype(int) // 2]
    which = rng.integers(0, 2, 5000)
    copies = [kinds[k] + rng.integers(0, 2) for k in which]
    films = np.stack([*copies, *(film(k, 32, 32) for k in range(10, 310))]).astype(np.uint8)
    store = planted(tmp_path, films)
    store.records["dhash"] = np.uint64(5)
    rows = np.arange(len(films))
    started = time.monotonic()
    pairs = near_duplicates(store, rows, store, rows)
    assert time.monotonic() - started < 10
    assert len(pairs) < 4 * len(films)
    assert pairs.max() < 5000
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(5000, 5000))
    count, group = connected_components(graph, directed=False)
    assert count == 2
    assert len(set(zip(group.tolist(), which.tolist(), strict=True))) == 2
    other = planted(tmp_path, films[4990:5005])
    other.records["dhash"] = np.uint64(5)
    across = near_duplicates(store, rows, other, np.arange(15))
    assert set(across[:, 1]) == set(range(15))  # every copy is named, and the films that lie in both
    assert np.abs(films[across[:, 0]].astype(int) - other.images[across[:, 1]]).mean(axis=(1, 2)).max() < 6


def test_a_crowd_and_all_pairs_find_the_same_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rsna(tmp_path / "rsna", images=40, same_as={i: i % 7 for i in range(30)})
    study = study_of(tmp_path, {"rsna": {}})
    build_store("rsna", study, 1)
    store, rows = open_store(StudyPaths(study).data("rsna")), np.arange(40)
    store.records["dhash"] = np.uint64(9)
    groups = []
    for crowd in (CROWD, 3):
        monkeypatch.setattr(duplicates, "CROWD", crowd)
        pairs = near_duplicates(store, rows, store, rows)
        groups.append(
            connected_components(coo_matrix((np.ones(len(pairs)), pairs.T), shape=(40, 40)), directed=False)[1]
        )
    np.testing.assert_array_equal(*groups)
    assert len(set(groups[0])) == 17


def test_films_of_one_grey_level_are_a_warning_and_join_no_patients(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", images=40)
    for i in range(20):
        write_dicom(
            tmp_path / "rsna" / "stage_2_train_images" / f"patient-{i:04d}.dcm", np.full((48, 40), 90, np.uint8)
        )
    study = built(study_of(tmp_path, {"rsna": {}}))
    report = audit(study)
    assert [f.text.split(",")[0] for f in report.findings if f.check == "one grey level"] == ["20 films show nothing"]
    assert not any(f.check == "same film" and f.level != "checked" for f in report.findings)
    assert "share a film" not in StudyPaths(study).splits("rsna").with_suffix(".json").read_text(encoding="utf-8")
    assert open_store(StudyPaths(study).data("rsna")).manifest["findings"] == {"films of one grey level": 20}
