"""A full disk is one line, and nothing half-written is trusted."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlip.data import decode
from mlip.data.build import build_store
from mlip.data.catalogue import resolve
from mlip.data.decode import fit
from mlip.data.space import allocate
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.study import write_study
from tests.conftest import ROOT
from tests.data.layouts import study_of, write_object_cxr, write_rsna, write_siim


def needs(size: int, images: int) -> str:
    return f"no space left on .*data, {images * (size**2 + decode.ROW_BYTES) / 1e9:.2g} GB needed"


FULL = """
import resource, sys
from mlip.data import build
from mlip.errors import UserError
from mlip.study import load_study
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    build.build_store("rsna", load_study(sys.argv[1]), int(sys.argv[2]))
except UserError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_is_one_line_before_anything_is_decoded(tmp_path: Path) -> None:
    """The largest allowed file stands in for a full disk; the memory map of a sparse file would be a bus error."""
    write_rsna(tmp_path / "rsna")
    study = study_of(tmp_path, {"rsna": {}}, image_size=224)
    write_study(study, tmp_path / "study.json")
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "study.json"), "1"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1
    size = 2 * 12 * 224**2 + 12 * decode.ROW_BYTES  # images and masks
    assert run.stderr.strip() == (
        f"no space left on {tmp_path}/work/test/data, {size / 1e9:.2g} GB needed. "
        "Fix: free space, or set `work` to another disk"
    )
    assert not list(StudyPaths(study).data("rsna").parent.iterdir())


@pytest.mark.parametrize("file", ["images.npy", "held.npy"])
def test_nothing_is_left_where_the_disk_fills_while_space_is_reserved(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_object_cxr(tmp_path / "object_cxr")
    study = study_of(tmp_path, {"object_cxr": {}})

    def full(path: Path, shape: tuple[int, ...]) -> None:
        if path.name == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(path, shape)

    monkeypatch.setattr(decode, "allocate", full)
    with pytest.raises(UserError, match=needs(32, 12)):
        build_store("object_cxr", study, 1)
    assert not list(StudyPaths(study).data("object_cxr").parent.iterdir())
    monkeypatch.setattr(decode, "allocate", allocate)
    build_store("object_cxr", study, 1)


def test_a_disk_that_fills_while_unreadable_films_are_left_out_keeps_what_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_siim(tmp_path / "siim")
    sorted(tmp_path.rglob("*.dcm"))[4].write_bytes(b"")
    study = study_of(tmp_path, {"siim": {"max_corrupt": 0.5}})

    def full(path: Path, shape: tuple[int, ...]) -> None:
        if path.name == "new-masks.npy":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(path, shape)

    monkeypatch.setattr(decode, "allocate", full)
    with pytest.raises(UserError, match="no space left on"):
        build_store("siim", study, 1)
    partial = StudyPaths(study).data("siim").with_name("siim.partial")
    assert sorted(p.name for p in partial.iterdir()) == [
        "done.jsonl",
        "held.npy",
        "images.npy",
        "key.json",
        "masks.npy",
    ]
    monkeypatch.setattr(decode, "allocate", allocate)
    build_store("siim", study, 1)
    assert open_store(StudyPaths(study).data("siim")).manifest["count"] == 11


@pytest.mark.parametrize("loss", ["images.npy", "key.json", "torn"])
def test_a_half_written_folder_is_started_afresh(loss: str, tmp_path: Path) -> None:
    """What a journal says is done counts only while its arrays and its key are there."""
    write_siim(tmp_path / "siim")
    study = study_of(tmp_path, {"siim": {}})
    reader, options = resolve(study, "siim")
    records = reader.records(tmp_path / "siim", options)
    partial = StudyPaths(study).data("siim").with_name("siim.partial")
    job = decode.DecodeJob(reader, partial, 32, True)
    key = {"reader": "siim", "version": "stage 1"}
    done = decode.prepare(job, records, 12, key)
    decode.decode_all(job, records, np.arange(12), done, 1, "siim")
    assert decode.prepare(job, records, 12, key)  # whole: taken over
    if loss == "torn":
        (partial / "key.json").write_text('{"rea', encoding="utf-8")
    else:
        (partial / loss).unlink()
    assert decode.prepare(job, records, 12, key) == {}
    build_store("siim", study, 1)
    store = open_store(StudyPaths(study).data("siim"))
    for row, record in enumerate(records):
        np.testing.assert_array_equal(store.images[row], fit(reader.load_image(record), 32)[0])


def test_the_space_of_a_store_is_really_taken(tmp_path: Path) -> None:
    allocate(tmp_path / "x.npy", (64, 64, 64))
    assert (tmp_path / "x.npy").stat().st_blocks * 512 >= 64**3
    images = np.load(tmp_path / "x.npy", mmap_mode="r+")
    images[3] = 7
    images.flush()
    allocate(tmp_path / "x.npy", (64, 64, 64))  # of a build that goes on: nothing is lost
    assert (np.load(tmp_path / "x.npy")[3] == 7).all()
