"""`mlip new-baseline` and what is checked of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from mlip import methods
from mlip.errors import UserError
from mlip.manifest import read_manifest
from mlip.methods import entries, method_class, method_folders
from mlip.run.contract.suite import row_setting
from mlip.run.scaffold import check_baseline, new_baseline
from mlip.study import parse_study
from mlip.yaml_files import read_yaml
from tests.conftest import ROOT


def test_new_baseline_trains_as_scaffolded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_baseline("my-method", tmp_path / "baselines")
    manifest, text = read_manifest(folder), (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in text for key in (*manifest.components, *manifest.parameters))
    monkeypatch.setattr(methods, "METHOD_FOLDERS", (tmp_path / "baselines",))
    method_folders.cache_clear()
    try:
        assert list(check_baseline("my-method"))
        with pytest.raises(UserError, match="is there already"):
            new_baseline("my-method", tmp_path / "baselines")
        (folder / "method.yaml").write_text(
            (folder / "method.yaml").read_text(encoding="utf-8").replace("id: my-method", "id: other"), encoding="utf-8"
        )
        with pytest.raises(UserError, match="folder is 'my-method'"):
            list(check_baseline("my-method"))
    finally:
        method_folders.cache_clear()


def test_bad_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no name for a method"):
        new_baseline("My Method", tmp_path)


def test_a_row_of_a_study_is_checked_with_its_checkpoint_at_its_own_size(tmp_path: Path) -> None:
    raw = read_yaml(ROOT / "config" / "smoke.yaml")
    model = timm.create_model("resnet10t", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    weights = {"file": str(tmp_path / "w.pth"), "architecture": "resnet10t", "input_size": 96, "normalise": "imagenet"}
    raw["methods"]["variants"] = {"mine": {"method": "weights", "weights": weights}}
    study = parse_study(raw, where="x.yaml")
    lines = list(check_baseline("mine", study=study))
    assert lines[-1] == f"{len(lines) - 2} checks passed" and len(lines) > 15
    row = entries(study)[0]["mine"]
    subject = row_setting(row, method_class(row.folder), study).subject
    assert subject.images.shape == (8, 3, 96, 96)
    assert torch.equal(
        subject.ready.image_encoder.model.state_dict()["conv1.0.weight"], model.state_dict()["conv1.0.weight"]
    )
    with pytest.raises(UserError, match="has no row 'random' with weights"):
        list(check_baseline("random", study=study))
    torch.save({"x": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="1 unexpected"):
        list(check_baseline("mine", study=study))
