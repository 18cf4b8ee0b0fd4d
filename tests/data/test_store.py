"""The image store: content, privacy, parallel equality, resumption, corrupt files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlip.data import decode
from mlip.data.build import build_store
from mlip.data.catalogue import resolve
from mlip.data.decode import fit
from mlip.data.privacy import hash_id, read_salt
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.study import write_study
from tests.conftest import ROOT
from tests.data.layouts import (
    WRITERS,
    film,
    siim_masks,
    study_of,
    write_dicom,
    write_mimic,
    write_object_cxr,
    write_siim,
)


def test_fit_keeps_the_aspect_and_centres() -> None:
    padded, scale, left, top = fit(np.full((60, 30), 200, np.uint8), 20)
    assert (scale, left, top) == (1 / 3, 5, 0)
    assert (padded[:, 5:15] == 200).all()
    assert not padded[:, :5].any()
    assert not padded[:, 15:].any()


@pytest.mark.parametrize("name", WRITERS)
def test_store_of_every_layout(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    study = study_of(tmp_path, {name: {}})
    build_store(name, study, 1)
    store = open_store(StudyPaths(study).data(name))
    reader, options = resolve(study, name)
    records = reader.records(tmp_path / name, options)
    assert store.images.shape == (len(records), 32, 32)
    assert store.manifest["count"] == len(records)
    assert list(store.records["row"]) == list(range(len(records)))
    for row in (0, len(records) - 1):
        np.testing.assert_array_equal(store.images[row], fit(reader.load_image(records[row]), 32)[0])
    assert set(store.records.columns) >= {
        "image_id",
        "patient_id",
        "study_id",
        "view",
        "official_split",
        "report",
        "boxes",
        "mask_row",
        "dhash",
    }
    for label in reader.labels:
        assert store.label(label).dtype == np.float32
        counts = store.manifest["label_counts"][label]
        assert sum(counts.values()) == len(records)
        assert counts["missing"] == sum(np.isnan(r.labels[label]) for r in records)


def test_boxes_follow_the_resize(tmp_path: Path) -> None:
    write_object_cxr(tmp_path / "object_cxr")  # films of 40 x 48: scale 2/3, three columns of padding left
    study = study_of(tmp_path, {"object_cxr": {}})
    build_store("object_cxr", study, 1)
    records = open_store(StudyPaths(study).data("object_cxr")).records
    assert records.boxes[0] == []
    assert records.box_categories[1] == ["Foreign object"]
    np.testing.assert_allclose(records.boxes[1], [[4 * 2 / 3 + 2, 6 * 2 / 3, 10 * 2 / 3, 20 * 2 / 3]], atol=1e-4)


def test_masks_follow_the_resize(tmp_path: Path) -> None:
    write_siim(tmp_path / "siim")
    study = study_of(tmp_path, {"siim": {}}, image_size=24)  # exactly half
    build_store("siim", study, 1)
    store = open_store(StudyPaths(study).data("siim"))
    assert store.masks is not None
    reader, options = resolve(study, "siim")
    for row, record in enumerate(reader.records(tmp_path / "siim", options)):
        mask = store.masks[store.records.mask_row[row]]
        full = np.maximum.reduce([np.zeros((48, 48)), *siim_masks(int(record.image_id.split(".")[-1]))])
        np.testing.assert_array_equal(mask, full.reshape(24, 2, 24, 2).mean(axis=(1, 3)) >= 0.5)


def test_no_raw_identifier_is_stored(tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimic_cxr")
    study = study_of(tmp_path, {"mimic_cxr": {"max_corrupt": 0.5}})
    broken = next(tmp_path.rglob("*-PA.jpg"))
    broken.write_bytes(b"")
    build_store("mimic_cxr", study, 1)
    folder = StudyPaths(study).data("mimic_cxr")
    records = pd.read_parquet(folder / "records.parquet")
    everything = records.drop(columns="report").to_csv() + (folder / "manifest.json").read_text(encoding="utf-8")
    for raw in ("1000000", "5000000", str(tmp_path)):
        assert raw not in everything
    assert records.patient_id.str.fullmatch("[0-9a-f]{16}").all()
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["unreadable"][0]["reason"].startswith(
        "cannot be decoded"
    )


def test_salt_is_made_once_private_and_overridable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "work" / ".salt"
    salt = read_salt(path)
    assert salt == read_salt(path)
    assert len(salt) == 64
    assert path.stat().st_mode & 0o077 == 0
    assert list(path.parent.iterdir()) == [path]
    assert hash_id("a/image", "1", salt) != hash_id("a/patient", "1", salt) != hash_id("a/patient", "1", b"other")
    monkeypatch.setenv("MLIP_SALT", "given")
    assert read_salt(path) == b"given"


def test_parallel_equals_serial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "CHUNK", 5)
    write_siim(tmp_path / "siim", images=23)
    stores = []
    for workers in (1, 2):
        study = study_of(tmp_path, {"siim": {}}, study=f"w{workers}")
        build_store("siim", study, workers)
        stores.append(open_store(StudyPaths(study).data("siim")))
    one, two = stores
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.masks, two.masks)
    pd.testing.assert_frame_equal(one.records, two.records)


def test_a_corrupt_film_stops_the_build_unless_tolerated(tmp_path: Path) -> None:
    write_siim(tmp_path / "siim")
    broken = sorted(tmp_path.rglob("*.dcm"))[4]
    broken.write_bytes(broken.read_bytes()[:-100])
    study = study_of(tmp_path, {"siim": {}})
    with pytest.raises(
        UserError,
        match=r"siim\.unreadable\.txt: lists 1 of 12 images.*cannot be decoded.*raise datasets\.siim\.max_corrupt",
    ) as caught:
        build_store("siim", study, 1)
    listing = StudyPaths(study).data("siim").with_name("siim.unreadable.txt")
    assert listing.read_text(encoding="utf-8").startswith(f"{broken}\tcannot be decoded")
    assert listing.stat().st_mode & 0o077 == 0
    assert broken.stem not in str(caught.value)  # the error goes to a log
    assert not StudyPaths(study).data("siim").exists()
    tolerant = study_of(tmp_path, {"siim": {"max_corrupt": 0.1}})
    build_store("siim", tolerant, 1)
    store = open_store(StudyPaths(tolerant).data("siim"))
    reader, options = resolve(tolerant, "siim")
    left = [r for r in reader.records(tmp_path / "siim", options) if r.path != broken]
    assert (len(store.images), len(store.manifest["unreadable"])) == (11, 1)
    assert store.masks is not None
    for row, record in enumerate(left):
        np.testing.assert_array_equal(store.images[row], fit(reader.load_image(record), 32)[0])
        assert store.masks[store.records.mask_row[row]].any() == bool(record.labels["Pneumothorax"])


def test_a_repaired_film_is_decoded_again(tmp_path: Path) -> None:
    write_siim(tmp_path / "siim")
    broken = sorted(tmp_path.rglob("*.dcm"))[4]
    content = broken.read_bytes()
    broken.write_bytes(b"")
    study = study_of(tmp_path, {"siim": {}})
    with pytest.raises(UserError):
        build_store("siim", study, 1)
    broken.write_bytes(content)
    build_store("siim", study, 1)
    assert open_store(StudyPaths(study).data("siim")).manifest["count"] == 12


SCRIPT = """
import sys, time
from pathlib import Path
from mlip.data import build, decode
from mlip.data.readers import siim
from mlip.study import load_study
decode.CHUNK = 4
load = siim.Siim.load_image
def slow(self, record):
    time.sleep(0.02)
    return load(self, record)
siim.Siim.load_image = slow
build.build_store("siim", load_study(sys.argv[1]), 1)
"""


def test_a_killed_build_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_siim(tmp_path / "siim", images=60)
    study = study_of(tmp_path, {"siim": {}})
    write_study(study, tmp_path / "study.json")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "study.json")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    folder = StudyPaths(study).data("siim")
    journal = folder.with_name("siim.partial") / "done.jsonl"
    for _ in range(3000):
        if journal.is_file() and journal.read_text(encoding="utf-8").count("\n") >= 3:
            break
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    with journal.open("a", encoding="utf-8") as file:
        file.write('{"start": 56, "ro')  # a line cut short by the kill
    already = journal.read_text(encoding="utf-8").count("\n") * 4
    monkeypatch.setattr(decode, "CHUNK", 4)
    reader, options = resolve(study, "siim")
    seen: list[str] = []
    load = type(reader).load_image
    monkeypatch.setattr(
        type(reader), "load_image", lambda self, record: seen.append(record.image_id) or load(self, record)
    )
    build_store("siim", study, 1)
    assert len(seen) == 60 - already
    store = open_store(folder)
    for row, record in enumerate(reader.records(tmp_path / "siim", options)):
        np.testing.assert_array_equal(store.images[row], fit(load(reader, record), 32)[0])


def test_a_changed_data_set_is_not_resumed(tmp_path: Path) -> None:
    write_siim(tmp_path / "siim", images=6)
    study = study_of(tmp_path, {"siim": {}})
    next(tmp_path.rglob("*.dcm")).write_bytes(b"")
    with pytest.raises(UserError):
        build_store("siim", study, 1)
    for old in tmp_path.rglob("*.dcm"):
        old.unlink()
    (tmp_path / "siim" / "train-rle.csv").write_text("ImageId, EncodedPixels\nonly, -1\n", encoding="utf-8")
    write_dicom(tmp_path / "siim" / "dicom-images-train" / "only.dcm", film(99))
    build_store("siim", study, 1)
    assert open_store(StudyPaths(study).data("siim")).images.shape == (1, 32, 32)


def test_unknown_reader_option_and_incomplete_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"datasets\.siim\.options: colour"):
        resolve(study_of(tmp_path, {"siim": {"options": {"colour": 1}}}), "siim")
    with pytest.raises(UserError, match="there is no reader 'padchest'"):
        resolve(study_of(tmp_path, {"siim": {"reader": "padchest"}}), "siim")
    with pytest.raises(UserError, match="is no complete image store"):
        open_store(tmp_path)


def test_a_store_of_an_older_version_is_named(tmp_path: Path) -> None:
    write_object_cxr(tmp_path / "object_cxr")
    study = study_of(tmp_path, {"object_cxr": {}})
    build_store("object_cxr", study, 1)
    path = StudyPaths(study).data("object_cxr") / "records.parquet"
    pd.read_parquet(path).drop(columns="boxes_known").to_parquet(path)
    with pytest.raises(UserError, match=r"was built by an older version\. Fix: delete the folder"):
        open_store(path.parent)
