"""Rows of a study: methods found by folder, variants, recipes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlip.errors import UserError
from mlip.manifest import Recipe, read_manifest
from mlip.methods import entries, recipe_of
from mlip.study import Study, load_study, parse_study
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


def _paper(**variants: object) -> Study:
    raw = load_study(ROOT / "config" / "paper.yaml").model_dump(mode="json")
    raw["methods"]["variants"] = variants
    return parse_study(raw, where="x.yaml")


def test_a_control_shows_the_start_of_the_row_it_names() -> None:
    rows = entries(
        _paper(ahead={"method": "imagenet", "start_of": "isbi24"}, kept={"method": "mgca", "encoder": "vit"})
    )[0]
    assert list(rows)[-2:] == ["ahead", "kept"] and rows["ahead"].encoder == "vit"
    assert rows["ahead"].image_config(_paper()) == rows["isbi24"].image_config(_paper())


@pytest.mark.parametrize(
    ("variant", "problem"),
    [
        ({"method": "imagenet", "start_of": "nobody"}, "there is no row 'nobody'"),
        ({"method": "imagenet", "start_of": "isbi24", "encoder": "cnn"}, "asks for a cnn encoder, isbi24 has a vit"),
        ({"method": "isbi24", "start_of": "mgca"}, "asks for a cnn encoder, the method supports"),
        ({"method": "imagenet", "start_of": "x"}, "cannot show what x starts from"),
    ],
)
def test_a_start_that_cannot_be_shown_is_refused(variant: dict[str, str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        entries(_paper(x=variant))


def test_a_control_of_a_broken_row_is_broken_and_the_other_controls_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    shutil.copytree(our_methods()["convirt"], folder)
    text = (folder / "method.yaml").read_text(encoding="utf-8").replace("id: convirt", "id: theirs")
    (folder / "method.yaml").write_text(text.replace("agreement: losses\n", ""), encoding="utf-8")
    raw = _paper(shown={"method": "imagenet", "start_of": "theirs"}).model_dump(mode="json")
    raw["methods"]["folders"] = [str(folder)]
    rows, broken = entries(parse_study(raw, where="x.yaml"))
    assert set(broken) == {"theirs", "shown"} and "agreement is None" in broken["shown"]
    assert "imagenet" in rows
