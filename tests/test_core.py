"""Seeding, paths, study, registry, schedule, scaffold, devices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlip import methods, seeding
from mlip.errors import UserError
from mlip.manifest import Recipe, read_manifest
from mlip.methods import entries, method_folders, recipe_of
from mlip.run.scaffold import check_baseline, new_baseline
from mlip.study import Study, load_study, parse_study, write_study
from mlip.yaml_files import read_yaml
from tests.conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_study_file_is_valid_and_survives_resolution(path: Path, tmp_path: Path) -> None:
    study = load_study(path)
    write_study(study, tmp_path / "study.json")
    assert load_study(tmp_path / "study.json") == study
    assert entries(study)[0]


def test_seeds_depend_on_names_only() -> None:
    assert seeding.seed_for("a", 1) == seeding.seed_for("a", 1) != seeding.seed_for("a", 2)
    assert seeding.seed_for("ab", "c") != seeding.seed_for("a", "bc")
    assert np.array_equal(seeding.generator("x").random(3), seeding.generator("x").random(3))


def test_schema_names_every_key() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlip", "schema"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert set(json.loads(done.stdout)["properties"]) == set(Study.model_fields)


def test_shared_budget_overrides_the_recipe() -> None:
    study = load_study(ROOT / "config" / "twin.yaml")
    for entry in entries(study)[0].values():
        if entry.manifest.trained:
            recipe = recipe_of(entry, study)
            assert isinstance(recipe, Recipe)
            assert (recipe.epochs, recipe.batch_size) == (study.pretrain.epochs, study.pretrain.batch_size)


def test_equal_optimiser_numbers_in_the_small_tier() -> None:
    """Equal tuning budget on the twin: one set of optimiser's numbers, tuned for no method in particular."""
    recipes = [read_manifest(f).recipes["small"] for f in method_folders().values() if read_manifest(f).trained]
    assert len({(r.lr, r.weight_decay, r.betas, r.warmup, r.clip) for r in recipes}) == 1


def test_methods_are_found_by_folder() -> None:
    assert {"cvpr24", "isbi24", "convirt", "gloria", "mgca", "random"} <= set(method_folders())
    for path in [ROOT / "workflows" / "Snakefile", *(ROOT / "workflows" / "rules").glob("*.smk")]:
        assert not [m for m in method_folders() if m != "random" and m in path.read_text(encoding="utf-8")], path


def test_new_baseline_trains_as_scaffolded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_baseline("my-method", tmp_path / "baselines")
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


def test_twin_root_is_derived() -> None:
    study = load_study(ROOT / "config" / "twin.yaml")
    assert study.datasets["chexpert_5x200"].root == Path("work/twin/raw/chexpert")
    raw = study.model_dump(mode="json")
    raw["datasets"]["rsna"]["twin"] = "nowhere"
    with pytest.raises(UserError, match="nowhere"):
        parse_study(raw, where="x.yaml")


def test_variant_is_a_row_with_its_own_switches() -> None:
    raw = load_study(ROOT / "config" / "twin.yaml").model_dump(mode="json")
    raw["methods"]["variants"] = {"mgca-vit": {"method": "mgca", "encoder": "vit"}}
    rows = entries(parse_study(raw, where="x.yaml"))[0]
    assert rows["mgca-vit"].encoder == "vit" and rows["mgca"].encoder == "cnn"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("study: [one\n", "is not valid YAML"),
        ("- one\n", "holds no keys"),
        ("", "holds no keys"),
        (b"\xff\xfe\x00", "is not valid YAML"),
    ],
)
def test_a_damaged_yaml_file_is_named(tmp_path: Path, content: str | bytes, problem: str) -> None:
    path = tmp_path / "strict.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=rf"strict\.yaml: {problem}"):
        read_yaml(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path)
