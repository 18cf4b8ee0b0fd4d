"""Maps on films with outlines: what is asked, how it is measured, what is written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from benchmarks.analyses import maps
from benchmarks.analyses.maps import CENTRE, OUTLINES, Question, centre_prior, enlarge, pixel_auroc, pointing, questions
from benchmarks.plan import resolve
from mlip.contract import Method
from mlip.manifest import read_manifest
from mlip.methods import Entry, entries, method_folders
from mlip.run.contract.world import tiny_batch, tiny_method
from mlip.study import load_study
from tests.benchmarks.conftest import SIDE, World
from tests.conftest import ROOT
from tests.ours import our_methods


def test_questions_are_those_whose_films_outline_the_finding() -> None:
    study = load_study(ROOT / "config" / "paper.yaml")
    plan = resolve(study, look=False)
    assert [(q.dataset, q.label) for q in questions(plan)] == [
        ("rsna_maco", "Pneumonia"),
        ("siim_maco", "Pneumothorax"),
    ]
    assert maps.mapped_rows(resolve(study.model_copy(update={"analyses": []}), look=False)) == []
    assert "random" not in maps.mapped_rows(plan) and "mgca-vit" in maps.mapped_rows(plan)


def test_pointing_and_auroc() -> None:
    outline = np.zeros((4, 4), dtype=bool)
    outline[:2, :2] = True
    right, flat = np.where(outline, 1.0, 0.0), np.zeros((4, 4))
    assert pointing(right, outline) == 1 and pixel_auroc(right, outline) == 1
    assert pointing(-right, outline) == 0 and pixel_auroc(-right, outline) == 0
    assert pointing(flat, outline) == 0.25 and pixel_auroc(flat, outline) == 0.5  # a flat map is chance, not a hit
    assert enlarge(np.eye(2)[None], 8).shape == (1, 8, 8)
    middle = centre_prior(5)
    assert np.unravel_index(middle.argmax(), middle.shape) == (2, 2) and np.allclose(middle, middle.T)


def test_intervals_go_over_patients_and_differences_are_paired() -> None:
    study = load_study(ROOT / "config" / "smoke.yaml")
    rng = np.random.default_rng(0)
    truth = np.zeros((40, 6, 6), dtype=bool)
    truth[:, 0, 0] = True
    found = {"right": truth + rng.random(truth.shape) * 0.1, CENTRE: np.broadcast_to(centre_prior(6), truth.shape)}
    question = Question("rsna", "Pneumonia", "There is pneumonia.")
    table = maps.measure(study, question, found, truth, np.repeat(np.arange(20), 2)).set_index(["map", "metric"])
    assert (table["films"] == 40).all() and (table["patients"] == 20).all()
    hit = table.loc[("right", "pointing game")]
    assert hit["value"] == hit["ci_low"] == 1 and hit["over_centre_low"] == 1
    prior = table.loc[(CENTRE, "pixel AUROC")]
    assert prior["value"] < 0.05 and prior["over_centre"] == prior["over_centre_high"] == 0


def test_intervals_do_not_depend_on_how_patients_are_called() -> None:
    study = load_study(ROOT / "config" / "smoke.yaml")
    rng = np.random.default_rng(0)
    truth = rng.random((40, 6, 6)) < 0.3
    found = {"any": rng.random(truth.shape), CENTRE: np.broadcast_to(centre_prior(6), truth.shape)}
    question = Question("rsna", "Pneumonia", "There is pneumonia.")
    number = np.repeat(np.arange(20), 2)
    one, other = (
        maps.measure(study, question, found, truth, names) for names in (number, (number * 7 % 20).astype(str))
    )
    pd.testing.assert_frame_equal(one, other)


class Bright(Method):
    """Looks at the brightest pixels."""

    def maps(self, images: Tensor, prompt: str) -> dict[str, Tensor]:
        return {"brightness": images[:, 0], "everywhere": torch.ones(len(images), 2, 2)}

    losses = encode_image = encode_text = None  # type: ignore[assignment]


def test_figure_and_numbers_of_a_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    truth = np.zeros((40, SIDE, SIDE), dtype=np.uint8)
    for film, corner in zip(truth, rng.integers(0, SIDE - 2, (40, 2)), strict=True):
        film[corner[0] : corner[0] + 2, corner[1] : corner[1] + 2] = 1
    world.store("siim", {"Pneumothorax": np.ones(40)}, images=(truth * 200 + 20).astype(np.uint8))
    folder = world.paths.data("siim")
    np.save(folder / "masks.npy", truth)
    world.rewrite(
        folder / "records.parquet", lambda f: f.__setitem__("mask_row", np.where(f["row"] < 38, f["row"], -1))
    )
    method = Bright.__new__(Bright)
    torch.nn.Module.__init__(method)
    monkeypatch.setattr("mlip.pretraining.checkpoints.load_method", lambda *_: method)
    world.study.tasks["zero_shot"].datasets = ["siim"]
    world.study.results = world.paths.work / "results"
    shown: list[np.ndarray] = []
    draw = maps.draw
    monkeypatch.setattr(maps, "draw", lambda *a: (shown.append(a[2][0][1]), draw(*a)))
    world.study.datasets["siim"].twin = "siim"
    maps.write_maps(resolve(world.study, look=False), world.entry, 0, torch.device("cpu"))
    world.study.datasets["siim"].twin = None
    maps.write_maps(resolve(world.study, look=False), world.entry, 0, torch.device("cpu"))
    virtual, real = shown
    assert set(np.unique(virtual)) == {20, 220} and set(np.unique(real)) == {maps.GREY}  # a person's film is not drawn
    target = world.paths.work / "results" / "tiny" / "maps"
    assert {p.name for p in target.iterdir()} == {"fake.png", "fake.csv"}
    text = (target / "fake.csv").read_text(encoding="utf-8")
    table = pd.read_csv(target / "fake.csv").set_index(["map", "metric"])["value"]
    assert table[("brightness", "pixel AUROC")] == 1 and table[("everywhere", "pixel AUROC")] == 0.5
    assert table[("everywhere", "pointing game")] == pytest.approx(4 / SIDE**2, abs=1e-4)
    assert {CENTRE, OUTLINES} < set(table.index.get_level_values("map"))
    ids = pd.read_parquet(folder / "records.parquet")
    assert not [i for i in [*ids["image_id"], *ids["patient_id"]] if i in text]


def _entry(name: str, kind: str) -> Entry:
    manifest = read_manifest(method_folders()[name])
    recipe = manifest.recipes["smoke"].params if manifest.trained else {}
    params = {key: spec.value for key, spec in manifest.parameters.items()} | recipe
    switches = {key: spec.default for key, spec in manifest.components.items()}
    return Entry(name, manifest, method_folders()[name], kind, switches, params, manifest.title)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name,kind", [(n, k) for n, f in our_methods().items() for k in read_manifest(f).encoders.supports]
)
def test_methods_have_the_maps_that_they_claim(name: str, kind: str) -> None:
    entry = _entry(name, kind)
    method = tiny_method(entry).eval()
    images = tiny_batch(method).images
    with torch.inference_mode():
        found = method.maps(images, "There is a pleural effusion.")
    assert bool(found) == ("maps" in entry.manifest.capabilities)
    for values in found.values():
        assert values.shape[0] == len(images) and values.ndim == 3 and bool(torch.isfinite(values).all())
    for name_of_map in set(found) & {"word attention"}:
        torch.testing.assert_close(found[name_of_map].sum(dim=(1, 2)), torch.ones(len(images)))


def test_a_row_whose_local_part_is_off_has_no_map() -> None:
    study = load_study(ROOT / "config" / "ablation.yaml")
    rows = entries(study)[0]
    method = tiny_method(rows["cvpr24-no-local"]).eval()
    assert method.maps(tiny_batch(method).images, "There is pneumonia.") == {}
    left = tiny_method(rows["isbi24-no-matching"]).eval()
    assert set(left.maps(tiny_batch(left).images, "There is pneumonia.")) == {"phi"}
