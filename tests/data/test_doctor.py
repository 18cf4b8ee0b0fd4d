"""The doctor's report and the check before a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from mlip.data.doctor import doctor, precheck, render
from mlip.errors import UserError
from tests.data.layouts import study_of, write_mimic, write_rsna, write_siim

TWIN = {"datasets": {"rsna": {"writer": "rsna", "images": 10}}}


def test_a_ready_data_set(tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimic_cxr")
    report = doctor(study_of(tmp_path, {"mimic_cxr": {}}))
    assert report.ok
    health = report.datasets[0]
    assert (health.state, health.version, health.sampled, health.unreadable) == ("ready", "2.0.0", 6, 0)
    assert health.counts["images"] == health.counts["patients"] == health.counts["reports"] == 6
    assert health.counts["official train"] == 4
    assert json.loads(report.to_json())["ok"] is True


def test_missing_damaged_and_generated(tmp_path: Path) -> None:
    write_siim(tmp_path / "siim")
    films = sorted(tmp_path.rglob("*.dcm"))
    films[2].unlink()
    films[5].write_bytes(b"")
    study = study_of(tmp_path, {"rsna": {}, "siim": {}, "object_cxr": {}}, twin=TWIN)
    report = doctor(study)
    by_name = {d.name: d for d in report.datasets}
    assert not report.ok
    assert by_name["rsna"].state == "will be generated"
    assert (by_name["siim"].state, by_name["siim"].missing, by_name["siim"].unreadable) == ("damaged", 1, 1)
    assert f"{films[2].name} is missing" in by_name["siim"].problem
    assert by_name["object_cxr"].state == "missing"
    assert "set datasets.object_cxr.root" in by_name["object_cxr"].next_step
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(report))
    shown = console.export_text()
    for word in ("will be generated", "damaged", "missing", films[2].name):
        assert word in shown


def test_the_doctor_names_a_missing_table(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna")
    (tmp_path / "rsna" / "stage_2_train_labels.csv").unlink()
    health = doctor(study_of(tmp_path, {"rsna": {}})).datasets[0]
    assert health.state == "damaged"
    assert health.problem.endswith("stage_2_train_labels.csv: is missing")


def test_precheck_fails_before_anything_runs(tmp_path: Path) -> None:
    write_siim(tmp_path / "siim")
    precheck(study_of(tmp_path, {"siim": {}, "rsna": {}}, twin=TWIN))
    with pytest.raises(UserError, match=r"object_cxr: the data set object_cxr is not there\. Fix: obtain Object-CXR"):
        precheck(study_of(tmp_path, {"siim": {}, "object_cxr": {}}, twin=TWIN))
    with pytest.raises(UserError, match=r"datasets\.rsna\.options: colour"):
        precheck(study_of(tmp_path, {"rsna": {"options": {"colour": 1}}}, twin=TWIN))
    (tmp_path / "siim" / "train-rle.csv").write_text("ImageId\nx\n")
    with pytest.raises(UserError, match=r"train-rle\.csv: lacks the column 'EncodedPixels'"):
        precheck(study_of(tmp_path, {"siim": {}}))
