"""Findings and devices: outlines agree with what is drawn, on the right side, growing with severity."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mlip.seeding import generator
from mlip.twin.chest import Chest
from mlip.twin.devices import DEVICES, OBJECTS, draw_device
from mlip.twin.findings import Plan, draw
from mlip.twin.hospital import HOSPITALS, hospital
from mlip.twin.patients import FINDINGS
from mlip.twin.radiograph import expose

SIDED = ("Pneumonia", "Consolidation", "Pleural Effusion", "Pneumothorax", "Atelectasis", "Lung Lesion")


def plan(name: str, side: str = "", severity: float = 0.6, kind: str = "", seed: int = 3) -> Plan:
    place = f"{side} lower lobe" if name in ("Pneumonia", "Consolidation") else ""
    return Plan(name, side, place, severity, kind, seed)


@pytest.fixture
def chest(anatomies) -> Chest:
    return Chest(anatomies, 1)


@pytest.mark.parametrize("name", FINDINGS)
def test_what_is_drawn_lies_in_the_outline(chest, name):
    for seed in range(4):
        side = "" if name == "Cardiomegaly" else "bilateral" if name == "Edema" else "left"
        drawn = draw(plan(name, side, seed=seed), chest)
        weight = np.abs(drawn.delta)
        assert drawn.mask.any()
        assert weight[drawn.mask].mean() > 4 * weight[~drawn.mask].mean()
        assert all((m & ~drawn.mask).sum() == 0 for m in drawn.instances)


@pytest.mark.parametrize("name", SIDED)
def test_the_side_is_the_patients(chest, name):
    middle = chest.point("carina")[0]
    for seed in range(4):
        for side in ("right", "left"):
            xs = np.nonzero(draw(plan(name, side, seed=seed), chest).mask)[1]
            assert (xs.mean() < middle) == (side == "right")


@pytest.mark.parametrize(
    "name", ["Pneumonia", "Pleural Effusion", "Pneumothorax", "Cardiomegaly", "Edema", "Lung Lesion"]
)
def test_worse_is_more(chest, name):
    side = "" if name == "Cardiomegaly" else "bilateral" if name == "Edema" else "right"
    amount = [
        np.mean([np.abs(draw(plan(name, side, s, "mass", k), chest).delta).sum() for k in range(6)])
        for s in (0.1, 0.5, 0.95)
    ]
    assert amount[0] < amount[1] < amount[2]


def test_a_pneumothorax_holds_air_and_no_lung_markings(chest):
    drawn = draw(plan("Pneumothorax", "right", 0.8), chest)
    deep = cv2.erode(drawn.mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2).astype(bool)
    assert deep.sum() > 30
    left = chest.lung_density("right") + drawn.delta
    assert drawn.delta[deep].mean() < -5
    assert left[deep].std() < 0.25 * chest.lung_density("right")[deep].std()


def test_an_effusion_has_a_meniscus(chest):
    mask, lung = draw(plan("Pleural Effusion", "left", 0.5), chest).mask, chest.lung("left")
    lateral = chest.lateral("left")[0]
    tops = {}
    for name, low, high in (("inner", 0.3, 0.5), ("wall", 0.75, 1.01)):
        # Only columns in which lung is left above the fluid show its surface.
        columns = [
            c
            for c in np.flatnonzero((lateral >= low) & (lateral < high))
            if mask[:, c].argmax() > lung[:, c].argmax() + 1
        ]
        tops[name] = np.mean([mask[:, c].argmax() for c in columns])
    assert tops["wall"] < tops["inner"]  # row 0 is the top: fluid climbs along the wall


def test_covid_is_bilateral_and_peripheral(chest):
    for seed in range(4):
        mask = draw(plan("Pneumonia", "bilateral", 0.6, "covid", seed), chest).mask
        for side in ("right", "left"):
            mine = mask & chest.lung(side)
            assert mine.any()
            assert chest.lateral(side)[mine].mean() > 0.5


@pytest.mark.parametrize("kind", [*DEVICES, *OBJECTS])
def test_devices_are_dense_where_outlined(chest, kind):
    drawn = draw_device(Plan("Support Devices", "", "", 0.5, kind, 4), chest)
    assert drawn.mask.any()
    assert drawn.delta.min() >= 0
    assert drawn.delta[drawn.mask].mean() > 3
    assert drawn.mask.mean() < 0.25


def test_same_plan_same_shape(chest):
    one, two, other = (draw(plan("Pneumonia", "right", seed=s), chest) for s in (1, 1, 2))
    assert np.array_equal(one.delta, two.delta)
    assert not np.array_equal(one.delta, other.delta)


@pytest.mark.parametrize(("name", "sign"), [("Pneumonia", 1), ("Pleural Effusion", 1), ("Pneumothorax", -1)])
def test_the_outline_moves_with_the_film(chest, name, sign):
    drawn = draw(plan(name, "right", 0.8), chest)
    with_it = expose(chest, [drawn], hospital("reference"), "AP", "M", generator("film"))
    without = expose(chest, [], hospital("reference"), "AP", "M", generator("film"))
    change = with_it.image.astype(float) - without.image
    mask = with_it.findings[0].mask
    assert sign * (change[mask].mean() - change[~mask].mean()) > 8


def test_hospitals_differ_in_look(chest):
    looks = {
        n: np.mean([expose(chest, [], h, "PA", "M", generator(n, k)).image.mean() for k in range(6)])
        for n, h in HOSPITALS.items()
    }
    assert looks["bright"] > looks["portable"] + 8
    films = [expose(chest, [], hospital("reference"), "PA", "F", generator("film", k)).image for k in range(2)]
    assert not np.array_equal(*films)
    assert films[0].dtype == np.uint8
    assert films[0].std() > 30
