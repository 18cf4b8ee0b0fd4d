"""Findings of the lungs and the heart, drawn into a chest with exact outlines.

Each finding is planned first (what, where, how severe, which random shape), so that it can persist and change over
a patient's studies, and drawn later as a map of added water in mm, which may be negative. Severity runs from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from mlip.seeding import generator
from mlip.twin.anatomy import LOBES
from mlip.twin.chest import SIDES, Chest, blur, noise


@dataclass(frozen=True)
class Plan:
    """One finding of one study, before it is drawn."""

    name: str  # CheXpert's name of the observation
    side: str  # right, left, bilateral, or "" where it has none
    place: str  # a lobe, a zone ("base"), or ""
    severity: float  # 0..1
    kind: str  # variety of the finding: "lobar", "covid", "plate", "mass", "pacemaker", ...
    seed: int  # fixes the random shape

    @property
    def grade(self) -> str:
        """mild, moderate or severe."""
        return ("mild", "moderate", "severe")[min(2, int(3 * self.severity))]


@dataclass
class Drawn:
    """A finding in one chest's film."""

    plan: Plan
    delta: np.ndarray  # float32 [S, S], mm of water added along the ray
    mask: np.ndarray  # bool [S, S], where it is seen
    instances: list[np.ndarray]  # bool [S, S] each: the parts that get boxes of their own
    shape: str = "polygon"  # outline of an instance: rectangle, ellipse or polygon


def draw(plan: Plan, chest: Chest) -> Drawn:
    """Draw one planned finding of the lungs or the heart; devices and objects are in ``mlip.twin.devices``."""
    return _DRAW[plan.name](plan, chest, generator(plan.seed, plan.name))


def _one(plan: Plan, delta: np.ndarray, mask: np.ndarray) -> Drawn:
    return Drawn(plan, delta.astype(np.float32), mask, _parts(mask))


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """Connected parts of a mask that are large enough to be outlined by a reader, at most four."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    floor = max(6, 0.0006 * mask.size)
    order = sorted(range(1, count), key=lambda i: -stats[i, cv2.CC_STAT_AREA])
    return [labels == i for i in order[:4] if stats[i, cv2.CC_STAT_AREA] >= floor]


def _sides(plan: Plan) -> tuple[str, ...]:
    return SIDES if plan.side == "bilateral" else (plan.side,)


def _spot(allowed: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    ys, xs = np.nonzero(allowed)
    at = int(rng.integers(len(xs)))
    return float(xs[at]), float(ys[at])


def _opacity(chest: Chest, rng: np.random.Generator, at: tuple[float, float], radius: float, lumps: int) -> np.ndarray:
    """A ragged cloud around ``at`` with values 0..1: overlapping lumps under a noisy threshold."""
    x, y = chest.grid
    cloud = np.zeros((chest.size, chest.size), np.float32)
    for k in range(lumps):
        shift = rng.normal(0, 0.45 * radius, 2) * (k > 0)
        width = radius * rng.uniform(0.55, 0.95)
        stretch = rng.uniform(0.75, 1.3)
        far = ((x - at[0] - shift[0]) / (width * stretch)) ** 2 + ((y - at[1] - shift[1]) * stretch / width) ** 2
        cloud = np.maximum(cloud, np.exp(-0.5 * far * 1.6).astype(np.float32))
    ragged = cloud * (1 + 0.17 * noise(rng, chest.size, 0.4 * radius)) + 0.03 * noise(rng, chest.size, 0.2 * radius)
    return blur(np.clip((ragged - 0.25) / 0.5, 0, 1), 0.005 * chest.size)


def _pneumonia(plan: Plan, chest: Chest, rng: np.random.Generator) -> Drawn:
    if plan.kind == "covid":
        return _ground_glass(plan, chest, rng)
    total, seen = np.zeros((chest.size, chest.size), np.float32), np.zeros((chest.size, chest.size), bool)
    for side in _sides(plan):
        lobe = plan.place if plan.place in LOBES else f"{side} lower lobe"
        path = chest.path(lobe)
        inside = chest.clear(side) & (path > 0.5 * np.quantile(path[chest.clear(side)], 0.97))
        inside &= chest.depth_inside(side) > 0.03 * chest.size
        at = _spot(inside if inside.any() else chest.clear(side), rng)
        radius = chest.size * (0.060 + 0.075 * plan.severity) * rng.uniform(0.9, 1.1)
        cloud = _opacity(chest, rng, at, radius, int(rng.integers(3, 7)))
        # Lobes overlap in projection: the cloud follows its lobe, softly where another lobe lies in front.
        member = np.clip(blur(path, 0.008 * chest.size) / max(0.35 * float(path.max()), 1.0), 0, 1)
        cloud = cloud * member
        texture = (
            1 + 0.16 * noise(rng, chest.size, 0.018 * chest.size) + 0.14 * noise(rng, chest.size, 0.045 * chest.size)
        )
        depth = np.minimum(chest.path(side), 1.7 * radius * chest.mm)
        total += cloud * texture * depth * (0.52 + 0.25 * plan.severity) * rng.uniform(0.85, 1.15)
        seen |= (cloud > 0.3) & chest.lung(side)
    return _one(plan, total, seen)


def _ground_glass(plan: Plan, chest: Chest, rng: np.random.Generator) -> Drawn:
    """COVID-19: several faint opacities in the outer, lower parts of both lungs."""
    total, seen = np.zeros((chest.size, chest.size), np.float32), np.zeros((chest.size, chest.size), bool)
    for side in SIDES:
        _, top, _, bottom = chest.lung_box(side)
        low = (chest.grid[1] - top) / max(bottom - top, 1.0)
        outer = chest.clear(side) & (chest.lateral(side) > 0.64) & (low > 0.35) & (chest.depth_inside(side) > 2)
        for _ in range(int(rng.integers(2, 4 + round(2 * plan.severity)))):
            at = _spot(outer if outer.any() else chest.clear(side), rng)
            radius = chest.size * rng.uniform(0.035, 0.06 + 0.025 * plan.severity)
            cloud = _opacity(chest, rng, at, radius, int(rng.integers(2, 5)))
            depth = np.minimum(chest.path(side), 2.2 * radius * chest.mm)
            total = np.maximum(total, cloud * depth * (0.33 + 0.24 * plan.severity) * chest.lung(side))
            seen |= (cloud > 0.3) & chest.lung(side)
    return _one(plan, total, seen)


def _effusion(plan: Plan, chest: Chest, rng: np.random.Generator) -> Drawn:
    total, seen = np.zeros((chest.size, chest.size), np.float32), np.zeros((chest.size, chest.size), bool)
    for side in _sides(plan):
        severity = float(np.clip(plan.severity * (rng.uniform(0.6, 1.0) if plan.side == "bilateral" else 1), 0, 1))
        lung, path, lateral = chest.lung(side), chest.path(side), chest.lateral(side)
        outer = np.nonzero(lung & (lateral > 0.75))[0]
        floor = float(np.quantile(outer, 0.99)) if len(outer) else 0.8 * chest.size
        top = chest.lung_box(side)[1]
        height = (0.12 + 0.62 * severity**1.1) * (floor - top)
        # The meniscus: fluid climbs along the chest wall, and a little along the mediastinum.
        climb = (0.05 + 0.10 * rng.uniform(0.6, 1.2)) * chest.size
        surface = floor - height - climb * (lateral**3 - 0.25) - 0.25 * climb * (1 - lateral) ** 4
        wet = 1 / (1 + np.exp(-np.clip((chest.grid[1] - surface) / (0.010 * chest.size), -30, 30)))
        # Fluid also lifts the lung off the diaphragm, so even a thin recess is filled.
        depth = np.maximum(0.68 * path, 30.0 * np.clip(blur(path, 0.012 * chest.size) / 45.0, 0, 1))
        total += wet * depth
        seen |= (wet > 0.5) & lung
    return _one(plan, total, seen)


def _pneumothorax(plan: Plan, chest: Chest, rng: np.random.Generator) -> Drawn:
    side, size = plan.side, chest.size
    lung = chest.lung(side) & (blur(chest.clear(side).astype(np.float32), 0.03 * size) > 0.08)
    smooth = blur(lung.astype(np.float32), 0.022 * size) > 0.5
    inside = cv2.distanceTransform(smooth.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~smooth).astype(np.uint8), cv2.DIST_L2, 5)
    field = (inside - outside).astype(np.float32)
    # The lung shrinks towards a point between hilum and base; the apex and the lateral wall are freed first.
    x0, y0, x1, y1 = chest.lung_box(side)
    anchor = np.array([x1 if side == "right" else x0, y0 + rng.uniform(0.72, 0.95) * (y1 - y0)])
    collapse = 0.09 + 0.34 * plan.severity
    shrink = 1 - collapse * np.array([rng.uniform(0.85, 1.15), rng.uniform(0.65, 1.0)])
    matrix = np.array(
        [[1 / shrink[0], 0, anchor[0] * (1 - 1 / shrink[0])], [0, 1 / shrink[1], anchor[1] * (1 - 1 / shrink[1])]]
    )
    edge = cv2.warpAffine(field, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=-size)
    edge = edge * float(shrink.mean()) + 0.006 * size * noise(rng, size, 0.25 * size)
    air = np.clip(-edge / (0.008 * size) + 0.5, 0, 1)
    density = chest.lung_density(side)
    beside = blur(chest.clear(side).astype(np.float32), 0.015 * size)  # not behind diaphragm or heart
    line = np.exp(-0.5 * (edge / (0.0045 * size + 0.25)) ** 2) * (4.5 + 1.5 * plan.severity) * beside
    packed = np.minimum((0.18 + 0.75 * collapse) * (1 - air) * density, 20.0) * beside
    delta = (-0.93 * air * density + line + packed) * lung
    mask = (edge < 0) & lung
    largest = _parts(mask)
    kept = np.logical_or.reduce(largest) if largest else mask
    return Drawn(plan, delta.astype(np.float32), kept, largest or [mask])


def _cardiomegaly(plan: Plan, chest: Chest, rng: np.random.Generator) -> Drawn:
    size = chest.size
    label = chest.path("heart")
    # The label ends in vessels and appendages; only the body of the heart dilates.
    radius = 2 * round(0.035 * size) + 1
    body = cv2.morphologyEx(label, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (radius, radius)))
    body = blur(body, 0.018 * size)
    ys, xs = np.nonzero(body > 12)
    anchor_x = xs.min() + rng.uniform(0.2, 0.36) * (xs.max() - xs.min())
    anchor_y = float(np.quantile(ys, 0.85))
    grow_x, grow_y = 1.08 + 0.38 * plan.severity, 1.02 + 0.18 * plan.severity * rng.uniform(0.6, 1.2)
    matrix = np.array([[1 / grow_x, 0, anchor_x * (1 - 1 / grow_x)], [0, 1 / grow_y, anchor_y * (1 - 1 / grow_y)]])
    grown = 1.25 * cv2.warpAffine(body, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    room = chest.path("left") + chest.path("right")
    # Fat and pericardium around the label are heart already, as far as the film is concerned.
    ring = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(0.022 * size) + 1,) * 2)
    solid = blur(cv2.dilate(label, ring), 0.012 * size)
    added = blur(np.clip(np.minimum(grown - solid, room), 0, None), 0.007 * size)
    # What the heart takes up, the lung and its vessels leave.
    density = chest.lung_density("left") + chest.lung_density("right")
    delta = 1.03 * added - density * added / np.maximum(room, 1.0)
    return _one(plan, delta, np.maximum(grown, body) > 15)


def _edema(plan: Plan, chest: Chest, rng: np.random.Generator) -> Drawn:
    x, y = chest.grid
    total, seen = np.zeros((chest.size, chest.size), np.float32), np.zeros((chest.size, chest.size), bool)
    strength = 0.35 + 0.80 * plan.severity
    for side in SIDES:
        hilum = chest.hilum(side)
        wide, tall = rng.uniform(0.10, 0.14) * chest.size, rng.uniform(0.15, 0.20) * chest.size
        wing = np.exp(-0.5 * (((x - hilum[0]) / wide) ** 2 + ((y - hilum[1] - 0.05 * chest.size) / tall) ** 2))
        path = chest.path(side)
        share = path / max(float(path.max()), 1.0)
        density = chest.lung_density(side)
        vessels = np.clip(density - blur(density, 0.03 * chest.size), 0, None) * chest.clear(side)
        haze = 26 * wing * share * (1 + 0.25 * noise(rng, chest.size, 0.05 * chest.size))
        streaks = np.clip(noise(rng, chest.size, 0.022 * chest.size), 0, None) * 4.0 * share * np.clip(2 * wing, 0, 1)
        total += strength * (haze + 0.9 * vessels + streaks) * chest.lung(side)
        seen |= (wing > 0.45) & chest.clear(side)
        if plan.severity > 0.45:  # Kerley B lines: short and horizontal at the outer base
            for _ in range(int(rng.integers(3, 7))):
                at = _spot(chest.clear(side) & (chest.lateral(side) > 0.8), rng)
                line = np.exp(
                    -0.5 * (((y - at[1]) / (0.003 * chest.size)) ** 2 + ((x - at[0]) / (0.02 * chest.size)) ** 4)
                )
                total += 4 * line * chest.lung(side)
    return _one(plan, total, seen)


def _atelectasis(plan: Plan, chest: Chest, rng: np.random.Generator) -> Drawn:
    x, y = chest.grid
    total, seen = np.zeros((chest.size, chest.size), np.float32), np.zeros((chest.size, chest.size), bool)
    for side in _sides(plan):
        _, y0, _, y1 = chest.lung_box(side)
        lateral, lung = chest.lateral(side), chest.lung(side)
        if plan.kind == "volume loss":  # a dense wedge on the medial diaphragm with a straight upper edge
            slope = rng.uniform(0.5, 0.9)
            edge = y1 - (0.14 + 0.24 * plan.severity) * (y1 - y0) + slope * (lateral - 0.1) * 0.35 * (y1 - y0)
            wedge = 1 / (1 + np.exp(-np.clip((y - edge) / (0.012 * chest.size), -30, 30)))
            wedge = wedge * np.clip(1.15 - lateral, 0, 1) * (1 + 0.1 * noise(rng, chest.size, 0.03 * chest.size))
            total += wedge * np.minimum(chest.path(side), 75) * (0.35 + 0.25 * plan.severity)
            seen |= (wedge > 0.45) & lung & (y < y1 + 0.06 * chest.size)
            continue
        for _ in range(int(rng.integers(1, 3 + round(plan.severity)))):
            low = chest.clear(side) & (y > y0 + 0.55 * (y1 - y0)) & (chest.depth_inside(side) > 0.035 * chest.size)
            at = _spot(low if low.any() else chest.clear(side), rng)
            tilt = np.deg2rad(rng.normal(0, 16))
            along = (x - at[0]) * np.cos(tilt) + (y - at[1]) * np.sin(tilt)
            across = -(x - at[0]) * np.sin(tilt) + (y - at[1]) * np.cos(tilt)
            across = across + rng.uniform(-0.9, 0.9) * along**2 / chest.size
            long, thin = rng.uniform(0.07, 0.13) * chest.size, (0.009 + 0.009 * plan.severity) * chest.size
            band = np.exp(-((along / long) ** 4) - 0.5 * (across / thin) ** 2) * lung
            total += band * (20 + 18 * plan.severity)
            seen |= band > 0.4
    return _one(plan, total, seen)


def _lesion(plan: Plan, chest: Chest, rng: np.random.Generator) -> Drawn:
    side = plan.side
    path = chest.path(plan.place) if plan.place in LOBES else chest.path(side)
    inside = chest.clear(side) & (path > 0.4 * float(path.max())) & (chest.depth_inside(side) > 0.05 * chest.size)
    at = _spot(inside if inside.any() else chest.clear(side), rng)
    radius = (15 + 16 * plan.severity if plan.kind == "mass" else 6 + 8 * plan.severity) / chest.mm
    x, y = chest.grid
    turn = np.arctan2(y - at[1], x - at[0])
    rough = 1 + sum(rng.normal(0, 0.06) * np.cos(k * turn + rng.uniform(0, 6.28)) for k in (2, 3, 5))
    away = np.hypot(x - at[0], y - at[1]) / rough
    chord = 2 * np.sqrt(np.clip(radius**2 - away**2, 0, None)) * chest.mm
    delta = blur(chord, 0.35) * rng.uniform(0.8, 1.05)
    return _one(plan, delta, away < radius)


_DRAW: dict[str, Callable[[Plan, Chest, np.random.Generator], Drawn]] = {
    "Pneumonia": _pneumonia,
    "Consolidation": _pneumonia,
    "Pleural Effusion": _effusion,
    "Pneumothorax": _pneumothorax,
    "Cardiomegaly": _cardiomegaly,
    "Edema": _edema,
    "Atelectasis": _atelectasis,
    "Lung Lesion": _lesion,
}
