"""Divisions that are written with raw identifiers, and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mlip.data.build import build_store
from mlip.data.division import build_splits
from mlip.data.publish import export_splits
from mlip.data.splits import read_splits
from mlip.errors import UserError
from mlip.paths import ROOT, StudyPaths
from mlip.run.cli import app
from mlip.study import Study
from tests.data.layouts import WRITERS, study_of


def divided(tmp_path: Path, name: str, split: str, **size: Any) -> Study:
    if not (tmp_path / name).exists():
        WRITERS[name](tmp_path / name, **size)
    study = study_of(tmp_path, {name: {"split": split}})
    build_store(name, study, 1)
    build_splits(name, study, draws=2)
    return study


@pytest.mark.parametrize(
    ("name", "size"), [("image_csv", {"images": 30}), ("siim", {}), ("chexpert", {}), ("mimic_cxr", {"patients": 18})]
)
def test_what_is_exported_is_read_as_the_same_division(name: str, size: dict[str, int], tmp_path: Path) -> None:
    """Identifiers with folders and equal stems (CheXpert) and with dots (SIIM) too, and under another salt."""
    study = divided(tmp_path, name, "strict", **size)
    before = read_splits(StudyPaths(study).splits(name))
    counts = export_splits(study, name, tmp_path / "published")
    assert counts == {part: int((before.part == part).sum()) for part in ("train", "val", "test")} and min(
        counts.values()
    )
    StudyPaths(study).salt.write_text("another", encoding="utf-8")
    after = read_splits(StudyPaths(divided(tmp_path, name, f"lists:{tmp_path / 'published'}")).splits(name))
    assert after.part.tolist() == before.part.tolist() and not (after.image_id == before.image_id).any()
    about = json.loads((tmp_path / "published" / "about.json").read_text(encoding="utf-8"))
    content = json.loads(StudyPaths(study).splits(name).with_suffix(".json").read_text(encoding="utf-8"))["content"]
    assert about["content"] == content, "the label draws too"
    lines = (tmp_path / "published" / "test.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "published" / "test.txt").write_text("\n".join(lines[1:]), encoding="utf-8")
    shorter = read_splits(StudyPaths(divided(tmp_path, name, f"lists:{tmp_path / 'published'}")).splits(name))
    assert (shorter.part == "test").sum() == counts["test"] - 1, "the lists decide"


def test_where_a_division_may_not_be_written(tmp_path: Path) -> None:
    study = divided(tmp_path, "image_csv", "strict", images=30)
    results = study.model_copy(update={"results": tmp_path / "results"})
    for where in (tmp_path / "results" / "mine", ROOT / "results" / "mine"):
        with pytest.raises(UserError, match="never hold raw identifiers"):
            export_splits(results, "image_csv", where)
        assert not where.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(UserError, match="not empty"):
        export_splits(study, "image_csv", tmp_path / "full")
    with pytest.raises(UserError, match="does not define the data set 'other'"):
        export_splits(study, "other", tmp_path / "new")


def test_a_film_in_two_parts_and_a_name_of_two_films_are_refused(tmp_path: Path) -> None:
    study = divided(tmp_path, "siim", "mgca-2022", images=60)
    with pytest.raises(UserError, match="images in two parts"):
        export_splits(study, "siim", tmp_path / "new")
    lists = tmp_path / "lists"
    lists.mkdir()
    for part in ("train", "test"):
        (lists / f"{part}.txt").write_text("view1_frontal.jpg\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.txt: entry 1 fits \d+ images of chexpert"):
        divided(tmp_path, "chexpert", f"lists:{lists}")


def test_the_command_warns_and_names_what_it_wrote(tmp_path: Path) -> None:
    study = divided(tmp_path, "image_csv", "strict", images=30)
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(json.loads(study.model_dump_json())), encoding="utf-8")
    done = CliRunner().invoke(app, ["splits", "export", f"{file}/image_csv", "--out", str(tmp_path / "new")])
    assert done.exit_code == 0 and "of your own patients" in done.stderr and "train" in done.stdout
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["about.json", "test.txt", "train.txt", "val.txt"]
