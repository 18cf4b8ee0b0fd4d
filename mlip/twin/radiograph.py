"""From organ maps and findings to a film: summation, pose, detector, processing and shutters."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mlip.twin.anatomy import ORGANS
from mlip.twin.chest import Chest, blur, noise
from mlip.twin.findings import Drawn
from mlip.twin.hospital import Hospital

_WATER = 0.0205  # attenuation of water per mm at the mean energy of a chest film


@dataclass
class Film:
    """One exposed film."""

    image: np.ndarray  # uint8 [S, S], bright = dense
    view: str  # PA or AP
    findings: list[Drawn]  # masks and instances as they lie on this film
    chest: Chest
    pose: tuple[np.ndarray, np.ndarray]  # float32 [S, S] each: x and y in the chest of the film's pixels

    def lung(self, side: str) -> np.ndarray:
        """:meth:`Chest.field` of the right or left lung as it lies on this film, bool [S, S]."""
        return _move_mask(self.chest.field(side), *self.pose)


def expose(chest: Chest, findings: list[Drawn], place: Hospital, view: str, sex: str, rng: np.random.Generator) -> Film:
    """Take one film of a chest with its findings.

    ``view`` AP stands for the bedside: shallower breath, larger heart, less exact positioning, more noise.
    """
    bedside = view == "AP"
    total = _add_organs(chest, bedside, rng) + _breasts(chest, sex, rng)
    for finding in findings:
        total += finding.delta
    map_x, map_y = _pose(chest, bedside, rng)
    scatter = rng.uniform(0.10, 0.18) if bedside else rng.uniform(0.04, 0.10)
    total = cv2.remap(total, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    moved = [_move(finding, map_x, map_y) for finding in findings]
    image = _detect(total, scatter, place, bedside, rng)
    image = _finish(image, place, view, rng)
    return Film(np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8), view, moved, chest, (map_x, map_y))


def _add_organs(chest: Chest, bedside: bool, rng: np.random.Generator) -> np.ndarray:
    weight = dict.fromkeys(ORGANS, 1.0)
    # Arms forward in PA: the shoulder blades leave the lungs. The CT's arms were up, so little is there to fade.
    weight["girdle"] = rng.uniform(0.8, 1.1) if bedside else rng.uniform(0.4, 0.8)
    weight["ribs"] = rng.uniform(0.85, 1.2)
    weight["spine"] = rng.uniform(0.85, 1.1)
    weight["soft"] = rng.uniform(0.92, 1.12)
    return np.tensordot(np.array([weight[o] for o in ORGANS], np.float32), chest.organs, 1)


def _breasts(chest: Chest, sex: str, rng: np.random.Generator) -> np.ndarray:
    total = np.zeros((chest.size, chest.size), np.float32)
    if sex != "F" or rng.random() < 0.25:
        return total
    thick, lift = rng.uniform(8, 32), rng.uniform(0.70, 0.92)
    for side in ("right", "left"):
        x0, y0, x1, y1 = chest.lung_box(side)
        centre = (0.55 * x0 + 0.45 * x1 if side == "right" else 0.45 * x0 + 0.55 * x1, y0 + lift * (y1 - y0))
        a, b = 0.62 * (x1 - x0), 0.27 * (y1 - y0)
        x, y = chest.grid
        depth = 1 - ((x - centre[0]) / a) ** 2 - ((y - centre[1]) / b) ** 2
        # The lower fold is sharp, the upper slope runs out.
        slope = np.where(y < centre[1], 1.6, 0.55)
        total += thick * np.clip(depth, 0, 1) ** slope
    return blur(total, 0.006 * chest.size)


def _pose(chest: Chest, bedside: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sampling maps of the film: turn, scale, shift and a slow distortion, so that one chest gives many films."""
    size, (x, y) = chest.size, chest.grid
    turn = np.deg2rad(rng.normal(0, 2.6 if bedside else 1.3))
    zoom = rng.uniform(0.89, 0.99) * np.array([1, rng.uniform(1.0, 1.08) if bedside else rng.uniform(0.95, 1.02)])
    shift = rng.normal(0, 0.022 if bedside else 0.013, 2) * size
    middle = np.array([size / 2, 0.47 * size])
    u, v = (x - middle[0] - shift[0]) * zoom[0], (y - middle[1] - shift[1]) * zoom[1]
    far = 0.010 * size
    map_x = middle[0] + u * np.cos(turn) - v * np.sin(turn) + far * noise(rng, size, 0.45 * size)
    map_y = middle[1] + u * np.sin(turn) + v * np.cos(turn) + far * noise(rng, size, 0.45 * size)
    return map_x.astype(np.float32), map_y.astype(np.float32)


def _move(finding: Drawn, map_x: np.ndarray, map_y: np.ndarray) -> Drawn:
    mask = _move_mask(finding.mask, map_x, map_y)
    instances = [_move_mask(m, map_x, map_y) for m in finding.instances]
    return Drawn(finding.plan, finding.delta, mask, [m for m in instances if m.any()], finding.shape)


def _move_mask(mask: np.ndarray, map_x: np.ndarray, map_y: np.ndarray) -> np.ndarray:
    return cv2.remap(mask.astype(np.uint8) * 255, map_x, map_y, cv2.INTER_LINEAR) > 127


def _detect(total: np.ndarray, scatter: float, place: Hospital, bedside: bool, rng: np.random.Generator) -> np.ndarray:
    """Water path [S, S] in mm -> grey 0..1: scatter, blur, quantum noise, logarithm, equalisation, film curve."""
    size = len(total)
    exposure = np.exp(-_WATER * total)
    exposure = (1 - scatter) * exposure + scatter * blur(exposure, 0.10 * size)
    exposure = blur(exposure, place.blur * size / 128 * rng.uniform(0.8, 1.3))
    grain = 0.0028 * place.noise * (1.4 if bedside else 1.0) * rng.uniform(0.7, 1.4)
    exposure = exposure + grain * np.sqrt(exposure) * rng.normal(size=exposure.shape)
    path = -np.log(np.clip(exposure, 2e-4, None)) / _WATER
    slow = blur(np.clip(path, 25, None), 0.13 * size)
    path = path - place.equalise * rng.uniform(0.85, 1.1) * (slow - slow.mean())
    inner = path[size // 8 : -size // 8, size // 8 : -size // 8]
    low, high = np.quantile(inner, (0.04, 0.95))
    grey = (path - low) / max(high - low, 1.0)
    slope = place.contrast * rng.normal(1, place.contrast_spread)
    level = rng.normal(place.exposure, place.exposure_spread)
    # A toe and a shoulder, as a film or a display's look-up table has them.
    bent = 1 / (1 + np.exp(-4.2 * slope * (grey - 0.46)))
    return np.clip(bent + level, 0.0, 1.0) ** rng.uniform(0.85, 1.15)


def _finish(image: np.ndarray, place: Hospital, view: str, rng: np.random.Generator) -> np.ndarray:
    """Burnt-in marker and shutters."""
    size = len(image)
    letters = place.marker + (" AP" if view == "AP" and rng.random() < 0.5 else "")
    if letters.strip() and rng.random() < 0.75:
        # A marker lies on the side that it names; the patient's left is on the right of the film.
        x = rng.uniform(0.80, 0.88) if "L" in letters else rng.uniform(0.04, 0.10)
        lead = np.zeros(image.shape, np.uint8)
        at = (round(x * size), round(rng.uniform(0.07, 0.14) * size))
        cv2.putText(
            lead, letters.strip(), at, cv2.FONT_HERSHEY_SIMPLEX, size / 420, 255, max(1, size // 160), cv2.LINE_AA
        )
        image = np.maximum(image, lead / np.float32(255))
    if rng.random() < place.collimation:
        edges = [round(abs(rng.normal(0, 0.025)) * size) for _ in range(4)]
        shuttered = np.full_like(image, 0.015)
        inside = (slice(edges[0], size - edges[1]), slice(edges[2], size - edges[3]))
        shuttered[inside] = image[inside]
        image = shuttered
    return image
