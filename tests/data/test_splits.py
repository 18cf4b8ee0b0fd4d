"""Parts and label draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlip.data.build import build_store
from mlip.data.division import build_splits, nested_levels, stratified_order, with_both_classes
from mlip.data.lineages import sample_levels
from mlip.data.splits import part_rows, read_splits, train_rows
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.study import Study
from tests.data.layouts import WRITERS, study_of, write_covidx, write_rsna


def divided(
    tmp_path: Path, name: str, split: str, images: dict[str, Any] | None = None, **options: Any
) -> tuple[Study, pd.DataFrame]:
    if not (tmp_path / name).exists():
        WRITERS[name](tmp_path / name, **(images or {}))
    study = study_of(tmp_path, {name: {"split": split, "options": options}})
    build_store(name, study, 1)
    build_splits(name, study, draws=2)
    return study, read_splits(StudyPaths(study).splits(name))


@pytest.mark.parametrize("name", ["mimic_cxr", "chexpert", "rsna", "siim", "covidx", "object_cxr"])
def test_strict_never_shares_a_patient(name: str, tmp_path: Path) -> None:
    _, splits = divided(tmp_path, name, "strict")
    used = splits[splits.part != "none"]
    assert len(used.groupby(["patient_id", "part"])) == len(set(used.patient_id))
    assert set(used.part) == {"train", "val", "test"}
    assert (splits["row"] == range(len(splits))).all()


def test_strict_shares_and_strata(tmp_path: Path) -> None:
    study, splits = divided(tmp_path, "rsna", "strict", {"images": 150})
    sizes = splits.part.value_counts()
    assert [sizes[p] for p in ("train", "val", "test")] == [105, 15, 30]
    positive = open_store(StudyPaths(study).data("rsna")).label("Pneumonia") == 1
    for part in ("train", "val", "test"):
        assert positive[part_rows(splits, part)].mean() == pytest.approx(1 / 3, abs=0.07)
    for draw in (0, 1):
        rows = {f: set(train_rows(splits, f, draw)) for f in (1, 10, 37, 100)}
        assert [len(r) for r in rows.values()] == [2, 10, 39, 105]
        assert rows[1] < rows[10] < rows[37] < rows[100]
        assert 0 < positive[list(rows[1])].sum() < 2
        assert rows[100] == set(part_rows(splits, "train"))
    assert set(train_rows(splits, 10, 0)) != set(train_rows(splits, 10, 1))


def test_splits_do_not_depend_on_the_salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    for salt in ("a", "b"):
        monkeypatch.setenv("MLIP_SALT", salt)
        tables.append(divided(tmp_path, "rsna", "strict", {"images": 60})[1])
    pd.testing.assert_frame_equal(*(t.drop(columns=["image_id", "patient_id"]) for t in tables))
    assert not (tables[0].patient_id == tables[1].patient_id).any()


def test_official_parts_are_kept_and_strict_drops_shared_patients(tmp_path: Path) -> None:
    write_covidx(tmp_path / "covidx", shared_patient=True)
    study, splits = divided(tmp_path, "covidx", "official")
    store = open_store(StudyPaths(study).data("covidx"))
    official = store.records.official_split
    assert ((splits.part == "test") == (official == "test")).all()
    both = set(splits.patient_id[splits.part == "test"]) & set(splits.patient_id[splits.part != "test"])
    assert len(both) == 1
    _, strict = divided(tmp_path, "covidx", "strict")
    assert (strict.part[strict.patient_id.isin(both) & (official == "train")] == "none").all()


def test_one_part_rules_and_unknown_rule(tmp_path: Path) -> None:
    _, splits = divided(tmp_path, "rsna", "test_only")
    assert (splits.part == "test").all()
    assert not splits.draw0.any()
    _, splits = divided(tmp_path, "rsna", "train_only")
    assert (splits.part == "train").all()
    with pytest.raises(UserError, match="there is no rule 'random'"):
        divided(tmp_path, "rsna", "random")
    with pytest.raises(UserError, match="has no official test part"):
        divided(tmp_path, "rsna", "official")


def test_mgca_lineage_is_the_published_call(tmp_path: Path) -> None:
    from sklearn.model_selection import train_test_split

    _, splits = divided(tmp_path, "rsna", "mgca-2022", {"images": 50})
    train, others = train_test_split(pd.DataFrame({"i": range(50)}), test_size=20, random_state=0)
    test, val = train_test_split(others, test_size=10, random_state=0)
    for part, expected in (("train", train), ("val", val), ("test", test)):
        np.testing.assert_array_equal(part_rows(splits, part), np.sort(expected.i))
    frame = splits[splits.part == "train"].reset_index(drop=True)
    expected = frame.sample(frac=0.5, random_state=42)["row"]
    np.testing.assert_array_equal(train_rows(splits, 50, 0), np.sort(expected))
    many = pd.DataFrame({"row": range(16010)})
    for percent in (1, 10):
        expected = many.sample(frac=percent / 100, random_state=43)["row"]
        np.testing.assert_array_equal(np.flatnonzero(sample_levels(16010, 1) <= percent), np.sort(expected))


def test_a_lineages_draw_of_a_small_data_set_has_both_classes(tmp_path: Path) -> None:
    _, splits = divided(tmp_path, "rsna", "mgca-2022", {"images": 50})
    store = open_store(StudyPaths(study_of(tmp_path, {"rsna": {}})).data("rsna"))
    positive = store.label("Pneumonia")[train_rows(splits, 1, 0)] == 1
    assert positive.any() and not positive.all() and len(positive) == 2, "thirty films have none at 1 %"
    rng = np.random.default_rng(0)
    large = sample_levels(16010, 0)
    same, notes = with_both_classes(large, rng.random((16010, 1)) < 0.22)
    assert np.array_equal(same, large) and not notes, "the published sizes stay as they were published"
    small, notes = with_both_classes(sample_levels(40, 0), np.arange(40)[:, None] < 4)
    assert np.array_equal(small, sample_levels(40, 0)) and not notes, "a label this rare is left alone"


def test_mgca_quirks_put_images_in_two_parts(tmp_path: Path) -> None:
    _, siim = divided(tmp_path, "siim", "mgca-2022", {"images": 60})
    assert siim["row"].duplicated().any()
    _, strict = divided(tmp_path, "siim", "strict")
    assert not strict["row"].duplicated().any()
    _, chexpert = divided(tmp_path, "chexpert", "mgca-2022", {"per_class": 12}, exclude_five_by_200=True, per_class=2)
    pool = 12 * 7 * 2 - 2 - 5 * 2 * 2  # frontal training films, less those of the 5x200 patients
    assert len(part_rows(chexpert, "val")) == round(pool * 5000 / 191027)
    assert set(part_rows(chexpert, "val")) & set(part_rows(chexpert, "train"))


def test_lists_of_image_ids(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna")
    lists = tmp_path / "lists"
    lists.mkdir()
    for part, numbers in (("train", (0, 3)), ("valid", (5,)), ("test", (1, 99))):
        (lists / f"{part}.txt").write_text(
            "\n".join(f"stage_2_train_images/patient-{i:04d}.dcm" for i in numbers), encoding="utf-8"
        )
    study, splits = divided(tmp_path, "rsna", f"lists:{lists}")
    assert [part_rows(splits, p).tolist() for p in ("train", "val", "test", "none")] == [
        [0, 3],
        [5],
        [1],
        [2, 4, *range(6, 12)],
    ]
    assert "1 of 2 images of test.txt are not in the store" in StudyPaths(study).splits("rsna").with_suffix(
        ".json"
    ).read_text(encoding="utf-8")


def test_maco_needs_its_test_films(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stage_2_test_images.*test_labels"):
        divided(tmp_path, "rsna", "maco-2024")
    with pytest.raises(UserError, match="maco-2024 has no division of covidx"):
        divided(tmp_path, "covidx", "maco-2024")


def test_tampering_and_impossible_requests_are_seen(tmp_path: Path) -> None:
    study, splits = divided(tmp_path, "rsna", "strict")
    with pytest.raises(UserError, match="hold no draw 7"):
        train_rows(splits, 10, 7)
    with pytest.raises(UserError, match="label fraction of 0 %"):
        train_rows(splits, 0, 0)
    path = StudyPaths(study).splits("rsna")
    splits.loc[0, "part"] = "test" if splits.part[0] == "train" else "train"
    splits.to_parquet(path)
    with pytest.raises(UserError, match="was changed after it was written"):
        read_splits(path)


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 400), st.floats(0.01, 0.5), st.integers(0, 10_000))
def test_draws_hold_both_classes_whole_patients_and_the_right_size(count: int, prevalence: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, max(1, count // 2), count)
    positive = rng.random((count, 3)) < prevalence * np.array([1, 0.5, 0.1])
    levels, _ = nested_levels(positive, patients, rng)
    assert levels.min() == 1
    assert levels.max() <= 100
    assert all(len(set(levels[patients == p])) == 1 for p in set(patients))
    small = levels == 1
    for label in range(3):
        has = set(patients[positive[:, label]])
        lacks = set(patients[~positive[:, label]])
        if min(len(has), len(lacks)) >= 5:
            assert 0 < positive[small, label].sum() < small.sum()
    assert abs((levels <= 50).sum() - count / 2) <= np.bincount(patients).max() + small.sum()


def test_every_prefix_of_the_order_is_stratified() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random((1000, 2)) < (0.3, 0.02)
    order = stratified_order(positive, rng)
    for share in (0.1, 0.25, 0.5, 0.8):
        prefix = positive[order[: int(1000 * share)]]
        np.testing.assert_allclose(prefix.sum(axis=0), positive.sum(axis=0) * share, atol=2.5)
