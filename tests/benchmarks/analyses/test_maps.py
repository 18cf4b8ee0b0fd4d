"""Maps on films with outlines: what is asked, how it is measured, what is written."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.analyses import maps
from benchmarks.analyses.map_scores import CENTRE, OUTLINES, centre_prior, enlarge, measure, pixel_auroc, pointing
from benchmarks.analyses.maps import Question, questions
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


class Steered(Method):
    """Patches answer every sentence with their brightness, turned round; the sentences of a finding a little less so."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.image_encoder = Grid()

    def maps(self, images: Tensor, prompt: str) -> dict[str, Tensor]:
        seen = self.image_encoder(images)
        seen *= -1.0 if prompt.startswith("No") else -0.9  # in place
        return {"cosine": seen, "fixed": torch.ones(len(images), 2, 2)}

    losses = encode_image = encode_text = None  # type: ignore[assignment]


class Grid(torch.nn.Module):
    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images[:, 0].clone()


QUESTION = Question("siim", "Pneumothorax", ("There is air.", "Air is seen."), ("No air is seen.",))


def test_the_contrast_of_prompts_takes_away_what_every_prompt_gets() -> None:
    films = np.full((70, SIDE, SIDE), 20, dtype=np.uint8)
    films[:, 1:3, 2:5] = 220
    outlines = films > 100
    method = Steered()
    found = maps.question_maps(method, films, np.arange(70), QUESTION, torch.device("cpu"))
    assert set(found) == {"cosine", "fixed", "cosine, presence minus absence"}  # no prompt moves `fixed`
    assert (pixel_auroc(found["cosine"], outlines).diagonal() == 0).all()
    assert (pixel_auroc(found["cosine, presence minus absence"], outlines).diagonal() == 1).all()
    alone = Question("siim", "Pneumothorax", QUESTION.presence)  # a prompt set without absence prompts
    assert set(maps.question_maps(method, films, np.arange(70), alone, torch.device("cpu"))) == {"cosine", "fixed"}


def test_films_are_encoded_once_for_all_prompts_and_answers_stay_the_same() -> None:
    films = np.random.default_rng(0).integers(0, 255, (70, SIDE, SIDE), dtype=np.uint8)
    method = Steered()
    once = maps.question_maps(method, films, np.arange(70), QUESTION, torch.device("cpu"))
    assert method.image_encoder.calls == 2  # batches of 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "encoded_once", nullcontext)
        again = maps.question_maps(method, films, np.arange(70), QUESTION, torch.device("cpu"))
    assert method.image_encoder.calls == 2 + 2 * 3
    for name, values in once.items():
        np.testing.assert_array_equal(values, again[name])


def test_pointing_and_auroc() -> None:
    outline = np.zeros((1, 4, 4), dtype=bool)
    outline[0, :2, :2] = True
    right, flat = np.where(outline, 1.0, 0.0), np.zeros((1, 4, 4))
    assert pointing(right, outline) == 1 and pixel_auroc(right, outline) == 1
    assert pointing(-right, outline) == 0 and pixel_auroc(-right, outline) == 0
    assert pointing(flat, outline) == 0.25 and pixel_auroc(flat, outline) == 0.5  # a flat map is chance, not a hit
    assert enlarge(np.eye(2)[None], 8).shape == (1, 8, 8)
    middle = centre_prior(5)
    assert np.unravel_index(middle.argmax(), middle.shape) == (2, 2) and np.allclose(middle, middle.T)


def test_auroc_of_all_maps_and_outlines_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    values, outlines = rng.integers(0, 6, (4, 7, 7)).astype(float), rng.random((3, 7, 7)) < 0.3  # with ties
    wanted = [[roc_auc_score(o.ravel(), v.ravel()) for o in outlines] for v in values]
    np.testing.assert_allclose(pixel_auroc(values, outlines), wanted, rtol=0, atol=1e-12)


def world_of_corners(rng: np.random.Generator, films: int = 40) -> np.ndarray:
    outlines = np.zeros((films, 6, 6), dtype=bool)
    for film, place in zip(outlines, rng.permutation(np.arange(films) % 9), strict=True):
        film[2 * (place // 3) : 2 * (place // 3) + 2, 2 * (place % 3) : 2 * (place % 3) + 2] = True
    return outlines


def measured(found: list[dict[str, np.ndarray]], outlines: np.ndarray, patients: np.ndarray) -> pd.DataFrame:
    controls = {CENTRE: centre_prior(6), OUTLINES: outlines.mean(axis=0)}
    table = measure(found, controls, outlines, patients, (200, 0.95), np.random.default_rng(1))
    return table.set_index(["map", "metric"])


def test_a_map_that_sees_the_film_gains_over_another_patients_and_a_habit_of_place_does_not() -> None:
    rng = np.random.default_rng(0)
    outlines, patients = world_of_corners(rng), np.repeat(np.arange(20), 2)
    place = np.broadcast_to(rng.random((6, 6)) + outlines.mean(axis=0), outlines.shape)
    found = {"sees": outlines + rng.random(outlines.shape), "place": place}
    table = measured([found], outlines, patients)
    assert (table["films"] == 40).all() and (table["patients"] == 20).all()
    sees, habit = (table.loc[name, "pixel AUROC"] for name in ("sees", "place"))
    assert sees["over_another_low"] > 0.3 and sees["over_centre_low"] > 0 and sees["over_outline_low"] > 0
    assert habit["over_another"] == habit["over_another_low"] == habit["over_another_high"] == 0
    for control in (CENTRE, OUTLINES):
        assert (table.loc[control]["over_another"] == 0).all()
    assert table.loc[(CENTRE, "pixel AUROC"), "over_centre_high"] == 0


def test_intervals_hold_the_spread_between_trainings() -> None:
    rng = np.random.default_rng(0)
    outlines, patients = world_of_corners(rng), np.arange(40)
    good, poor = ({"map": outlines * strength + rng.random(outlines.shape)} for strength in (0.9, 0.1))
    same = measured([good, good, good], outlines, patients).loc[("map", "pixel AUROC")]
    apart = measured([good, poor, good], outlines, patients).loc[("map", "pixel AUROC")]
    assert same["seeds"] == apart["seeds"] == 3
    assert same["ci_high"] - same["ci_low"] < 0.1 < apart["ci_high"] - apart["ci_low"]
    assert same["value"] == pytest.approx(measured([good], outlines, patients).loc[("map", "pixel AUROC"), "value"])


def test_intervals_of_a_handful_of_patients_stay_within_what_is_possible() -> None:
    rng = np.random.default_rng(0)
    for trial in range(30):
        outlines = world_of_corners(np.random.default_rng(trial), 4)
        table = measured([{"map": rng.random(outlines.shape)} for _ in range(3)], outlines, np.arange(4))
        bounds = table.filter(regex="_(low|high)$").to_numpy(dtype=float)
        assert (np.abs(bounds) <= 1).all()


def test_intervals_do_not_depend_on_how_patients_are_called() -> None:
    rng = np.random.default_rng(0)
    outlines, number = world_of_corners(rng), np.repeat(np.arange(20), 2)
    found = [{"any": rng.random(outlines.shape)}]
    one, other = (measured(found, outlines, names) for names in (number, (number * 7 % 20).astype(str)))
    pd.testing.assert_frame_equal(one, other)


def test_one_patient_alone_has_no_other_to_be_held_against() -> None:
    outlines = world_of_corners(np.random.default_rng(0), 2)
    line = measured([{"any": outlines + 0.5}], outlines, np.zeros(2)).loc[("any", "pixel AUROC")]
    assert line["value"] == 1 and np.isnan(line["over_another"])


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
    monkeypatch.setattr(maps, "draw", lambda *a: (shown.append(a[2][0].films), draw(*a)))
    world.study.datasets["siim"].twin = "siim"
    maps.write_maps(resolve(world.study, look=False), world.entry, torch.device("cpu"))
    world.study.datasets["siim"].twin = None
    maps.write_maps(resolve(world.study, look=False), world.entry, torch.device("cpu"))
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
