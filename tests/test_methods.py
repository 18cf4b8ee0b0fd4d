"""Rows of a study: methods found by folder, variants, recipes."""

from __future__ import annotations

from mlip.manifest import Recipe, read_manifest
from mlip.methods import entries, recipe_of
from mlip.study import load_study, parse_study
from tests.conftest import ROOT
from tests.ours import our_methods


def test_shared_budget_overrides_the_recipe() -> None:
    study = load_study(ROOT / "config" / "twin.yaml")
    for entry in entries(study)[0].values():
        if entry.manifest.trained:
            recipe = recipe_of(entry, study)
            assert isinstance(recipe, Recipe)
            assert (recipe.epochs, recipe.batch_size) == (study.pretrain.epochs, study.pretrain.batch_size)


def test_equal_optimiser_numbers_in_the_small_tier() -> None:
    """Equal tuning budget on the twin: one set of optimiser's numbers, tuned for no method in particular."""
    recipes = [read_manifest(f).recipes["small"] for f in our_methods().values() if read_manifest(f).trained]
    assert len({(r.lr, r.weight_decay, r.betas, r.warmup, r.clip) for r in recipes}) == 1


def test_methods_are_found_by_folder() -> None:
    assert {"cvpr24", "isbi24", "convirt", "gloria", "mgca", "random"} <= set(our_methods())
    for path in [ROOT / "workflows" / "Snakefile", *(ROOT / "workflows" / "rules").glob("*.smk")]:
        assert not [m for m in our_methods() if m != "random" and m in path.read_text(encoding="utf-8")], path


def test_variant_is_a_row_with_its_own_switches() -> None:
    raw = load_study(ROOT / "config" / "twin.yaml").model_dump(mode="json")
    raw["methods"]["variants"] = {"mgca-vit": {"method": "mgca", "encoder": "vit"}}
    rows = entries(parse_study(raw, where="x.yaml"))[0]
    assert rows["mgca-vit"].encoder == "vit" and rows["mgca"].encoder == "cnn"
