"""The doctor's report and the check before a run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.plan import resolve
from mlip.data.readers import rsna
from mlip.errors import UserError
from mlip.run.cli import app
from mlip.run.doctor import doctor, render
from mlip.study import write_study
from tests.data.layouts import study_of, write_mimic, write_rsna, write_siim

UNTRAINED = {"include": ["random"]}  # needs no reports
TWIN = {"datasets": {"virtual": {"writer": "rsna", "images": 10}}}


def test_a_ready_data_set(tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimic")
    report = doctor(
        study_of(tmp_path, {"mimic": {"reader": "mimic_cxr"}}, tasks={"retrieval": {"datasets": ["mimic"]}})
    )
    assert report.ok
    health = report.datasets[0]
    assert health.complete == {"images": 243_334}
    assert (health.positives["Edema"], health.positives["Pneumonia"]) == (3, 0)
    assert (health.state, health.version, health.sampled, health.unreadable) == ("ready", "2.0.0", 6, 0)
    assert health.counts["images"] == health.counts["patients"] == health.counts["reports"] == 6
    assert health.counts["official train"] == 4
    assert json.loads(report.to_json())["ok"] is True


def test_missing_damaged_and_generated(tmp_path: Path) -> None:
    write_siim(tmp_path / "siim")
    films = sorted(tmp_path.rglob("*.dcm"))
    films[2].unlink()
    films[5].write_bytes(b"")
    tasks = {"zero_shot": {"datasets": ["rsna", "siim"]}, "detection": {"datasets": ["rsna", "object_cxr"]}}
    study = study_of(tmp_path, {"rsna": {"twin": "virtual"}, "siim": {}, "object_cxr": {}}, twin=TWIN, tasks=tasks)
    report = doctor(study)
    by_name = {d.name: d for d in report.datasets}
    assert not report.ok
    assert by_name["rsna"].state == "will be generated"
    assert (by_name["siim"].state, by_name["siim"].missing, by_name["siim"].unreadable) == ("damaged", 1, 1)
    assert f"{films[2].name} is missing" in by_name["siim"].problem
    assert by_name["object_cxr"].state == "missing"
    assert "set datasets.object_cxr.root" in by_name["object_cxr"].next_step
    assert "mlip fetch" not in by_name["object_cxr"].next_step
    assert [(t.task, t.dataset, t.obstacle) for t in report.tables] == [
        ("detection", "rsna", ""),
        ("detection", "object_cxr", "data missing"),
        ("zero_shot", "rsna", ""),
        ("zero_shot", "siim", "data damaged"),
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    render(report, console)
    shown = console.export_text()
    for word in ("will be generated", "damaged", "siim: data damaged", films[2].name, "The study cannot run yet"):
        assert word in shown


def test_nothing_can_be_computed_without_data_to_pretrain_on(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna")
    study = study_of(
        tmp_path, {"mimic": {"reader": "mimic_cxr"}, "rsna": {}}, tasks={"zero_shot": {"datasets": ["rsna"]}}
    )
    assert doctor(study).tables[0].obstacle == "nothing to pre-train on: mimic missing"


def test_a_study_file_that_cannot_run_is_not_ok(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna")
    report = doctor(study_of(tmp_path, {"rsna": {}}, tasks={"juggling": {"datasets": ["rsna"]}}))
    assert not report.ok
    assert "juggling" in report.problem
    report = doctor(study_of(tmp_path, {"rsna": {}}, tasks={"segmentation": {"datasets": ["rsna"]}}, methods=UNTRAINED))
    assert report.ok
    report = doctor(study_of(tmp_path, {"rsna": {}}, tasks={"retrieval": {"datasets": ["rsna"]}}, methods=UNTRAINED))
    assert "does not list 'rsna'" in report.tables[0].obstacle
    assert not report.ok


def test_more_films_than_the_complete_release_are_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rsna(tmp_path / "rsna")
    monkeypatch.setattr(rsna.Rsna, "complete", lambda *_: {"images": 10})
    health = doctor(study_of(tmp_path, {"rsna": {}})).datasets[0]
    assert health.problem == "holds more than the complete release: 12 images of 10"


def test_the_command_prints_and_exits_with_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rsna(tmp_path / "rsna")
    path = tmp_path / "study.json"
    for tasks, status in (({"zero_shot": {"datasets": ["rsna"]}}, 0), ({"retrieval": {"datasets": ["rsna"]}}, 1)):
        write_study(study_of(tmp_path, {"rsna": {}}, tasks=tasks, methods=UNTRAINED), path)
        with pytest.raises(SystemExit) as stopped:
            app(["doctor", "-s", str(path)])
        assert stopped.value.code == status
        shown = capsys.readouterr().out
        assert "Data of the study test" in shown
        assert f"The study {'cannot run yet' if status else 'can run as configured'}." in shown


def test_the_doctor_names_a_missing_table(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna")
    (tmp_path / "rsna" / "stage_2_train_labels.csv").unlink()
    health = doctor(study_of(tmp_path, {"rsna": {}})).datasets[0]
    assert health.state == "damaged"
    assert health.problem.endswith("stage_2_train_labels.csv: is missing")


def test_precheck_fails_before_anything_runs(tmp_path: Path) -> None:
    write_siim(tmp_path / "siim")
    resolve(study_of(tmp_path, {"siim": {}, "rsna": {"twin": "virtual"}}, twin=TWIN))
    with pytest.raises(UserError, match=r"object_cxr: the data set object_cxr is not there\. Fix: obtain Object-CXR"):
        resolve(study_of(tmp_path, {"siim": {}, "object_cxr": {}}, twin=TWIN))
    with pytest.raises(UserError, match=r"datasets\.rsna\.options: colour"):
        resolve(study_of(tmp_path, {"rsna": {"options": {"colour": 1}}}, twin=TWIN))
    (tmp_path / "siim" / "train-rle.csv").write_text("ImageId\nx\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train-rle\.csv: lacks the column 'EncodedPixels'"):
        resolve(study_of(tmp_path, {"siim": {}}))


def test_what_can_be_fetched_is_said_where_it_is_missing(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"mine": {"reader": "iu_xray"}}, tasks={"retrieval": {"datasets": ["mine"]}})
    assert doctor(study).datasets[0].next_step.startswith("`mlip fetch iu_xray`, or obtain")
    with pytest.raises(UserError, match=r"mine: the data set mine is not there\. Fix: `mlip fetch iu_xray`, or"):
        resolve(study)
