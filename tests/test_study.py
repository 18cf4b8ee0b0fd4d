"""Study files: all of ours are valid, mistakes are named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.plan import resolve
from mlip.errors import UserError
from mlip.methods import entries
from mlip.study import Study, load_study, parse_study, write_study
from tests.conftest import ROOT
from tests.ours import ours

STUDIES = ours(path for path in (ROOT / "config").glob("*.yaml") if path.stem != "claims")


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_study_file_is_valid_and_survives_resolution(path: Path, tmp_path: Path) -> None:
    study = load_study(path)
    write_study(study, tmp_path / "study.json")
    again = load_study(tmp_path / "study.json")
    # In one order too: tables made by hand from the file list tasks and rows as those of a run do.
    assert json.dumps(again.model_dump(mode="json")) == json.dumps(study.model_dump(mode="json"))
    assert entries(study)[0]


def test_the_long_study_is_the_default_one_but_for_its_steps() -> None:
    twin, long = (
        load_study(ROOT / "config" / f"{name}.yaml").model_dump(mode="json") for name in ("twin", "twin-long")
    )
    assert long["pretrain"].pop("epochs") == 3 * twin["pretrain"].pop("epochs")
    for study in (twin, long):
        del study["study"], study["title"]
        for data in study["datasets"].values():  # folders are named after the study
            del data["root"]
    assert long == twin


def test_schema_names_every_key() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlip", "schema"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert set(json.loads(done.stdout)["properties"]) == set(Study.model_fields)


def test_a_protocol_may_be_used_on_some_data_sets_only() -> None:
    raw = load_study(ROOT / "config" / "twin.yaml").model_dump(mode="json")
    raw["tasks"]["zero_shot"] |= {
        "datasets": ["rsna", "siim"],
        "protocols": ["strict", "maco-2024"],
        "only": {"maco-2024": ["siim"]},
    }
    study = parse_study(raw, where="x.yaml")
    assert study.tasks["zero_shot"].pairs == [("strict", "rsna"), ("strict", "siim"), ("maco-2024", "siim")]
    blocks = resolve(study, look=False).blocks
    assert [(b.protocol_name, b.dataset) for b in blocks if b.task_name == "zero_shot"] == study.tasks[
        "zero_shot"
    ].pairs
    for only, said in (
        ({"biovil": ["rsna"]}, "names 'biovil'"),
        ({"strict": ["covidx"]}, "names 'covidx'"),
        ({"strict": ["rsna"], "maco-2024": ["rsna"]}, "leaves 'siim' without a protocol"),
    ):
        raw["tasks"]["zero_shot"]["only"] = only
        with pytest.raises(UserError, match=said):
            parse_study(raw, where="x.yaml")


def test_twin_root_is_derived() -> None:
    study = load_study(ROOT / "config" / "twin.yaml")
    assert study.datasets["chexpert_5x200"].root == Path("work/twin/raw/chexpert")
    raw = study.model_dump(mode="json")
    raw["datasets"]["rsna"]["twin"] = "nowhere"
    with pytest.raises(UserError, match="nowhere"):
        parse_study(raw, where="x.yaml")
