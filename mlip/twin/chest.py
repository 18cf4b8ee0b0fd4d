"""One warped chest as float maps in millimetres, with the geometry that findings are placed by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from mlip.twin.anatomy import LOBES, ORGANS, POINTS, THICKNESS, UNITS, Anatomies

SIDES = ("right", "left")
_FIELD = 0.35  # share of a lung's full depth from which an outline counts it, see Chest.field


def blur(field: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a float map; ``sigma`` in pixels."""
    field = field.astype(np.float32)
    if sigma <= 20:
        return cv2.GaussianBlur(field, (0, 0), max(float(sigma), 0.3))
    # A very wide kernel costs more than the rest of the film; a quarter of the resolution loses nothing of its result.
    height, width = field.shape
    small = cv2.resize(field, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / 4)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def noise(rng: np.random.Generator, size: int, grain: float) -> np.ndarray:
    """Smooth noise [size, size], mean 0, standard deviation 1; ``grain`` is the width of its lumps in pixels."""
    coarse = max(3, round(size / max(grain, 1.0)) + 3)
    field = cv2.resize(
        rng.normal(size=(coarse, coarse)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
    return (field - field.mean()) / (field.std() + 1e-6)


@dataclass(frozen=True)
class Chest:
    """Chest ``index`` of a set of anatomies."""

    source: Anatomies
    index: int

    @cached_property
    def organs(self) -> np.ndarray:
        """[11, S, S] float32 mm of water along the ray through each of ORGANS."""
        return self.source.organs[self.index].astype(np.float32) / UNITS

    @cached_property
    def paths(self) -> np.ndarray:
        """[6, S, S] float32 mm of path through each of THICKNESS."""
        return self.source.thickness[self.index].astype(np.float32) / UNITS

    @property
    def size(self) -> int:
        return self.source.size

    @property
    def mm(self) -> float:
        """Millimetres per pixel."""
        return float(self.source.fov[self.index]) / self.size

    def point(self, name: str) -> np.ndarray:
        """(x, y) of a landmark in pixels."""
        return self.source.points[self.index, POINTS.index(name)] * self.size

    def path(self, name: str) -> np.ndarray:
        """Path through ``heart``, a lobe, or ``left``/``right`` lung, mm [S, S]."""
        if name in SIDES:
            return self.paths[[i for i, n in enumerate(THICKNESS) if n.startswith(name)]].sum(0)
        return self.paths[THICKNESS.index(name)]

    def lung_density(self, side: str) -> np.ndarray:
        """Water path of one lung with its vessels, mm [S, S]."""
        return self.organs[[i for i, n in enumerate(ORGANS) if n in LOBES and n.startswith(side)]].sum(0)

    @cached_property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates (x, y), float32 [S, S] each."""
        y, x = np.mgrid[: self.size, : self.size].astype(np.float32)
        return x, y

    @cached_property
    def _lungs(self) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, float, float, float], np.ndarray]]:
        found = {}
        for side in SIDES:
            path = self.path(side)
            mask = blur(path, 0.008 * self.size) > 4.0
            # Where the ray's chest is mostly lung, with neither heart nor diaphragm before or behind it.
            full = np.quantile(path[mask], 0.95)
            tissue = self.organs[[ORGANS.index(n) for n in ("soft", "heart", "vessels")]].sum(0)
            clear = (path > 0.45 * full) & (tissue < np.median(tissue[path > 0.8 * full]) + 45.0)
            ys, xs = np.nonzero(clear)
            box = (float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))
            away = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
            found[side] = (mask, clear, box, away)
        return found

    def lung(self, side: str) -> np.ndarray:
        """Silhouette of one lung with its recesses, bool [S, S]."""
        return self._lungs[side][0]

    @cached_property
    def _fields(self) -> dict[str, np.ndarray]:
        found = {}
        for side in SIDES:
            path = blur(self.path(side), 0.008 * self.size)
            found[side] = path > _FIELD * np.quantile(path[self.lung(side)], 0.95)
        return found

    def field(self, side: str) -> np.ndarray:
        """One lung as an annotator outlines it, bool [S, S]: where a ray runs through 35 % of its full depth or more.

        Lung behind the heart belongs to it, thin recesses behind the diaphragm and before the spine do not. The share is
        our choice: the two fields then cover .37 of a film, the masks of covid-chestxray-dataset .33 (mean of 32).
        """
        return self._fields[side]

    def clear(self, side: str) -> np.ndarray:
        """The part of one lung's silhouette that neither heart nor diaphragm covers, bool [S, S]."""
        return self._lungs[side][1]

    def lung_box(self, side: str) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of :meth:`clear` in pixels."""
        return self._lungs[side][2]

    def depth_inside(self, side: str) -> np.ndarray:
        """Distance in pixels from the outline of the lung's silhouette, 0 outside."""
        return self._lungs[side][3]

    def hilum(self, side: str) -> np.ndarray:
        """(x, y) of the hilum in pixels: beside and a little below the carina."""
        away = -0.115 if side == "right" else 0.115
        return self.point("carina") + np.array([away, 0.075 if side == "right" else 0.055]) * self.size

    def lateral(self, side: str) -> np.ndarray:
        """0 at the lung's mediastinal edge to 1 at the chest wall, float32 [S, S]."""
        x0, _, x1, _ = self.lung_box(side)
        across = (self.grid[0] - x0) / max(x1 - x0, 1.0)
        return np.clip(1 - across if side == "right" else across, 0, 1)
