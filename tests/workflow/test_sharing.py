"""What leaves the machine, made from a real study: an encoder that timm loads, an archive without identifiers."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from benchmarks.plan import resolve
from benchmarks.report.compare import Run as Results
from benchmarks.report.compare import compare
from benchmarks.tasks.shared.features import read_features
from mlip.data.pixels import to_tensor
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.run.export import export
from mlip.run.pack import pack
from mlip.run.unpack import unpack
from tests.conftest import ROOT
from tests.workflow.conftest import Run

pytestmark = pytest.mark.study


@pytest.mark.parametrize("row", ["cvpr24", "isbi24"])
def test_timm_gives_the_features_that_the_tables_were_made_from(
    smoke: Run, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = export(resolve(smoke.study, look=False), row, 0, tmp_path / "encoder")
    card = (tmp_path / "encoder" / "README.md").read_text(encoding="utf-8")
    said = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")
    assert line.replace(str(tmp_path / "encoder"), "encoders/mgca-paper") in said
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)  # as a reader of the card would
    model = names["encoder"]
    paths = StudyPaths(smoke.study)
    store = open_store(paths.data("covidx"))
    stored = read_features(paths.features(row, 0, "covidx"), store)
    with torch.no_grad():
        found = model(to_tensor(np.array(store.images))).numpy()
    np.testing.assert_allclose(found, stored, atol=1e-5 * np.abs(stored).max())
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "apache-2.0" and front["library_name"] == "timm"
    cells = pd.read_csv(paths.cells).set_index(["task", "metric", "method"])["value"]
    shown = [m["value"] for r in front["model-index"][0]["results"] for m in r["metrics"] if m["type"] == "auroc"]
    assert set(shown) == {cells[task, "AUROC", row] for task in ("linear_probe", "few_shot")}
    made = json.loads((paths.pretrain(row, 0) / "card.json").read_text(encoding="utf-8"))
    assert made["commit"] in card and made["device"] in card and smoke.study.note in card and "reconstruction" in card
    with pytest.raises(UserError, match="is there already"):
        export(resolve(smoke.study, look=False), row, 0, tmp_path / "encoder")


def test_a_training_of_another_configuration_is_not_exported(smoke: Run, tmp_path: Path) -> None:
    changed = smoke.study.model_copy(update={"seed": 8})
    with pytest.raises(UserError, match="was trained by other code or another configuration"):
        export(resolve(changed, look=False), "cvpr24", 0, tmp_path / "encoder")
    changed = smoke.study.model_copy(update={"title": "Another"})
    with pytest.raises(UserError, match=r"cells\.csv: is not of today's code and configuration"):
        export(resolve(changed, look=False), "cvpr24", 0, tmp_path / "encoder")
    with pytest.raises(UserError, match="no training with seed 5"):
        export(resolve(smoke.study, look=False), "cvpr24", 5, tmp_path / "encoder")
    assert not list(tmp_path.iterdir())


def test_an_archive_holds_no_raw_ids_and_no_report_text(smoke: Run, tmp_path: Path) -> None:
    """Raw identifiers of every layout's file names, and sentences of reports, appear in no file of the archive."""
    paths = StudyPaths(smoke.study)
    pack(resolve(smoke.study, look=False), tmp_path / "smoke.tar.gz")
    raw = [p for name in smoke.study.datasets for p in paths.raw(name).rglob("*") if p.is_file()]
    ids = {p.stem for p in raw if p.suffix in (".jpg", ".png", ".dcm", ".txt") and any(c.isdigit() for c in p.stem)}
    ids |= {p.parent.name for p in paths.raw("mimic").rglob("s*.txt")}
    ids = {i for i in ids if len(i) > 5}
    sentences = {
        line
        for path in list(paths.raw("mimic").rglob("s*.txt"))[:20]
        for line in path.read_text(encoding="utf-8").splitlines()
        if len(line) > 40
    }
    assert len(ids) > 300 and len(sentences) > 10
    with tarfile.open(tmp_path / "smoke.tar.gz") as archive:
        for member in archive:
            data = archive.extractfile(member).read()  # type: ignore[union-attr]
            parquet = member.name.endswith(".parquet")
            text = pd.read_parquet(io.BytesIO(data)).to_csv() if parquet else data.decode()
            assert not [i for i in ids if i in text], member.name
            assert not [s for s in sentences if s in text], member.name
            assert str(smoke.folder) not in data.decode(errors="ignore"), member.name


def test_an_archive_gives_the_runs_cells_elsewhere(smoke: Run, tmp_path: Path) -> None:
    paths = StudyPaths(smoke.study)
    pack(resolve(smoke.study, look=False), tmp_path / "smoke.tar.gz")
    unpack(tmp_path / "smoke.tar.gz", tmp_path / "there")
    there = tmp_path / "there" / "results" / "smoke"
    assert (there / "cells.csv").read_bytes() == paths.cells.read_bytes()
    found = compare(Results.read(paths.results), Results.read(there))
    assert found.reproduces and not [line for line in found.differs if not line.startswith("`methods")]
