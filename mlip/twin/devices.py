"""Support devices and foreign objects, drawn as dense shapes with exact outlines."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import ArrayLike

from mlip.seeding import generator
from mlip.twin.chest import Chest, blur
from mlip.twin.findings import Drawn, Plan

DEVICES = (
    "endotracheal tube",
    "nasogastric tube",
    "central line",
    "picc",
    "pacemaker",
    "sternal wires",
    "chest tube",
    "ecg leads",
)
OBJECTS = ("coin", "button", "necklace", "hairpin", "zip", "hook", "ring", "pen")

_FINE = 4  # drawn this many times finer, then averaged down


def draw_device(plan: Plan, chest: Chest) -> Drawn:
    """Draw a support device (``plan.kind`` is one of DEVICES) or a foreign object (one of OBJECTS)."""
    rng = generator(plan.seed, plan.kind)
    canvas = _Canvas(chest.size, chest.mm)
    shape = _DRAW[plan.kind](canvas, chest, plan.side, rng) or "polygon"
    return Drawn(plan, canvas.delta, canvas.seen, [canvas.seen], shape)


class _Canvas:
    """Adds lines and plates; positions and widths are in pixels of the film, densities in mm of water."""

    def __init__(self, size: int, mm: float) -> None:
        self.size, self.mm = size, mm
        self.delta = np.zeros((size, size), np.float32)
        self.seen = np.zeros((size, size), bool)

    def add(self, drawing: np.ndarray, density: float) -> None:
        cover = cv2.resize(drawing, (self.size, self.size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        self.delta = np.maximum(self.delta, cover * density)
        self.seen |= cover > 0.3

    def blank(self) -> np.ndarray:
        return np.zeros((self.size * _FINE,) * 2, np.uint8)

    def line(self, points: ArrayLike, width_mm: float, density: float, *, closed: bool = False) -> None:
        drawing = self.blank()
        thick = max(1, round(max(width_mm / self.mm, 0.8) * _FINE))
        cv2.polylines(drawing, [np.rint(np.asarray(points) * _FINE).astype(np.int32)], closed, 255, thick, cv2.LINE_AA)
        self.add(drawing, density)

    def tube(self, points: np.ndarray, width_mm: float, density: float) -> None:
        """A hollow tube: a faint body with denser walls."""
        self.line(points, width_mm, 0.45 * density)
        at = np.asarray(points, float)
        along = np.gradient(at, axis=0)
        across = np.stack([-along[:, 1], along[:, 0]], 1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-6)
        for sign in (-0.45, 0.45):
            self.line(at + sign * across * width_mm / self.mm, 0.9, density)

    def plate(self, points: np.ndarray, density: float) -> None:
        drawing = self.blank()
        cv2.fillPoly(drawing, [np.rint(np.asarray(points) * _FINE).astype(np.int32)], 255, cv2.LINE_AA)
        self.add(drawing, density)


def _curve(knots: list[np.ndarray] | np.ndarray, count: int = 60) -> np.ndarray:
    """[count, 2] smooth path through knots (Catmull-Rom)."""
    p = np.asarray(knots, float)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    at = np.linspace(0, len(p) - 3 - 1e-9, count)
    i, t = at.astype(int), (at % 1)[:, None]
    a, b, c, d = (p[i + k] for k in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def _oval(centre: np.ndarray, a: float, b: float, turn: float = 0.0, count: int = 40) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    x, y = a * np.cos(angle), b * np.sin(angle)
    return centre + np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1)


def _jitter(rng: np.random.Generator, size: int, spread: float) -> np.ndarray:
    return rng.normal(0, spread * size, 2)


def _endotracheal(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> None:
    carina, top = chest.point("carina"), chest.point("trachea_top")
    tip = carina + (top - carina) * rng.uniform(0.2, 0.5)
    start = np.array([top[0] + rng.normal(0, 0.01) * canvas.size, 0.0])
    canvas.tube(_curve([start, (start + tip) / 2 + _jitter(rng, canvas.size, 0.004), tip]), 10.0, 30)


def _nasogastric(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> None:
    top, carina, stomach = chest.point("trachea_top"), chest.point("carina"), chest.point("stomach")
    waist = np.array([carina[0] + 0.03 * canvas.size, 0.55 * carina[1] + 0.45 * stomach[1]])
    end = stomach + _jitter(rng, canvas.size, 0.03)
    knots = [
        np.array([top[0] - 0.01 * canvas.size, 0.0]),
        carina + np.array([0.012 * canvas.size, 0]),
        waist,
        (waist + end) / 2 + [0.02 * canvas.size, 0],
        end,
    ]
    canvas.line(_curve(knots), 4.6, 26)


def _central_line(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> None:
    end = chest.point("cava_end") + _jitter(rng, canvas.size, 0.012)
    side = side or "right"
    start = chest.point(f"clavicle_{side}") + _jitter(rng, canvas.size, 0.02)
    outward = np.array([-0.10 if side == "right" else 0.10, -0.03]) * canvas.size
    joint = np.array(
        [end[0] + (-0.02 if side == "right" else 0.05) * canvas.size, 0.45 * start[1] + 0.55 * chest.point("arch")[1]]
    )
    canvas.line(_curve([start + outward, start, joint, end]), 3.6, 26)


def _picc(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> None:
    end = chest.point("cava_end") + _jitter(rng, canvas.size, 0.012)
    side = side or "left"
    out = np.array([0.0 if side == "right" else canvas.size, 0.22 * canvas.size])
    shoulder = chest.point(f"clavicle_{side}") + np.array([-0.12 if side == "right" else 0.12, 0.03]) * canvas.size
    joint = np.array([end[0], chest.point("arch")[1] - 0.03 * canvas.size])
    canvas.line(_curve([out, shoulder, joint, end]), 2.6, 24)


def _pacemaker(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> None:
    side = side or "left"
    sign = -1 if side == "right" else 1
    x0, y0, x1, _ = chest.lung_box(side)
    wall = x0 if side == "right" else x1
    centre = np.array([wall - sign * 0.03 * canvas.size, y0 + 0.13 * canvas.size]) + _jitter(rng, canvas.size, 0.015)
    turn = rng.uniform(-0.4, 0.4)
    a, b = 24 / canvas.mm, 20 / canvas.mm
    canvas.plate(_oval(centre, a, b, turn), 75)
    canvas.plate(_oval(centre - [0, 0.75 * b], 0.55 * a, 0.35 * b, turn), 45)
    heart = np.argwhere(chest.path("heart") > 25)[:, ::-1]
    low = heart[heart[:, 1] > np.quantile(heart[:, 1], 0.75)]
    cava = chest.point("cava_end")
    shoulder = centre + np.array([-sign * 0.05, -0.075]) * canvas.size
    joint = np.array([cava[0] + (0.01 if side == "right" else 0.03) * canvas.size, chest.point("arch")[1]])
    ends = [np.array([np.quantile(low[:, 0], 0.62), low[:, 1].mean()]), cava + np.array([0.03, 0.05]) * canvas.size]
    for end in ends[: int(rng.integers(1, 3))]:
        canvas.line(_curve([centre, shoulder, joint, cava, end + _jitter(rng, canvas.size, 0.012)]), 3.0, 34)


def _sternal_wires(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> None:
    carina = chest.point("carina")
    count = int(rng.integers(4, 7))
    for k in range(count):
        centre = np.array([carina[0] - 0.01 * canvas.size, carina[1] + (-0.10 + 0.075 * k) * canvas.size]) + _jitter(
            rng, canvas.size, 0.005
        )
        canvas.line(_oval(centre, 8 / canvas.mm, 4.2 / canvas.mm, rng.uniform(-0.3, 0.3)), 1.7, 40, closed=True)
        canvas.line(
            [centre + np.array([0, 3 / canvas.mm]), centre + np.array([rng.normal(0, 2) / canvas.mm, 9 / canvas.mm])],
            1.7,
            40,
        )


def _chest_tube(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> None:
    side = side or "right"
    x0, y0, x1, y1 = chest.lung_box(side)
    wall, inward = (x0, 1) if side == "right" else (x1, -1)
    height, width = y1 - y0, x1 - x0
    out = np.array([wall - inward * 0.13 * canvas.size, y0 + rng.uniform(0.85, 1.05) * height])
    knots = [
        out,
        np.array([wall, y0 + rng.uniform(0.7, 0.85) * height]),
        np.array([wall + inward * 0.3 * width, y0 + 0.4 * height]),
        np.array([wall + inward * rng.uniform(0.45, 0.65) * width, y0 + rng.uniform(0.04, 0.15) * height]),
    ]
    canvas.tube(_curve(knots), 10.0, 30)


def _ecg_leads(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> None:
    for x, y in ((0.22, 0.16), (0.80, 0.17), (0.20, 0.72), (0.79, 0.76))[: int(rng.integers(2, 5))]:
        at = np.array([x, y]) * canvas.size + _jitter(rng, canvas.size, 0.025)
        canvas.plate(_oval(at, 7 / canvas.mm, 7 / canvas.mm), 42)
        away = np.array([at[0] + rng.normal(0, 0.12) * canvas.size, canvas.size * (1.02 if y > 0.5 else -0.02)])
        canvas.line(_curve([at, (at + away) / 2 + _jitter(rng, canvas.size, 0.03), away]), 2.2, 28)


def _anywhere(chest: Chest, rng: np.random.Generator) -> np.ndarray:
    body = chest.organs.sum(0) > 60
    ys, xs = np.nonzero(body)
    size = chest.size
    keep = (xs > 0.12 * size) & (xs < 0.88 * size) & (ys > 0.06 * size) & (ys < 0.9 * size)
    at = int(rng.integers(keep.sum()))
    return np.array([xs[keep][at], ys[keep][at]], float)


def _coin(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> str:
    radius = rng.uniform(8, 13) / canvas.mm
    canvas.plate(_oval(_anywhere(chest, rng), radius, radius * rng.uniform(0.85, 1)), rng.uniform(60, 100))
    return "ellipse"


def _button(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> str:
    at, radius = _anywhere(chest, rng), max(rng.uniform(5, 8) / canvas.mm, 1.5)
    canvas.plate(_oval(at, radius, radius), rng.uniform(18, 30))
    canvas.line(_oval(at, 0.85 * radius, 0.85 * radius), 1.4, 40, closed=True)
    return "ellipse"


def _necklace(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> None:
    middle = chest.point("trachea_top")[0] + rng.normal(0, 0.02) * canvas.size
    drop, wide = rng.uniform(0.12, 0.28) * canvas.size, rng.uniform(0.10, 0.18) * canvas.size
    across = np.linspace(-1, 1, 60)
    path = np.stack([middle + across * wide, 0.02 * canvas.size + drop * (1 - np.abs(across) ** 2.2)], 1)
    canvas.line(path, 1.8, 30)
    if rng.random() < 0.6:
        canvas.plate(
            _oval(np.array([middle, 0.02 * canvas.size + drop + 4 / canvas.mm]), 4 / canvas.mm, 6 / canvas.mm), 60
        )


def _hairpin(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> str:
    at, turn = _anywhere(chest, rng), rng.uniform(0, np.pi)
    half, gap = rng.uniform(10, 17) / canvas.mm, 2.2 / canvas.mm
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    canvas.line(
        [
            at - half * along + gap * across,
            at + half * along + gap * across,
            at + half * along - gap * across,
            at - half * along - gap * across,
        ],
        1.7,
        48,
    )
    return "polygon"


def _zip(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> str:
    x = chest.point("carina")[0] + rng.normal(0, 0.05) * canvas.size
    top, long = rng.uniform(0.2, 0.5) * canvas.size, rng.uniform(0.18, 0.35) * canvas.size
    for y in np.arange(top, top + long, 4.5 / canvas.mm):
        canvas.line([[x - 2.2 / canvas.mm, y], [x + 2.2 / canvas.mm, y]], 2.0, 38)
    canvas.seen = blur(canvas.seen.astype(np.float32), 3 / canvas.mm) > 0.12
    return "rectangle"


def _hook(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> str:
    at = np.array([rng.uniform(0.3, 0.7), rng.uniform(0.5, 0.75)]) * canvas.size
    gap = 4.5 / canvas.mm
    for k in range(int(rng.integers(2, 4))):
        canvas.line(_oval(at + np.array([0, k * gap]), 3.6 / canvas.mm, 1.9 / canvas.mm), 1.3, 42, closed=True)
    return "rectangle"


def _ring(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> str:
    radius = rng.uniform(6, 11) / canvas.mm
    canvas.line(
        _oval(_anywhere(chest, rng), radius, radius * rng.uniform(0.5, 1), rng.uniform(0, 3)), 2.2, 55, closed=True
    )
    return "ellipse"


def _pen(canvas: _Canvas, chest: Chest, side: str, rng: np.random.Generator) -> str:
    at, turn = _anywhere(chest, rng), rng.normal(np.pi / 2, 0.3)
    along = np.array([np.cos(turn), np.sin(turn)]) * rng.uniform(22, 34) / canvas.mm
    canvas.line([at - along, at + along], 6.5, 12)
    canvas.line([at - along, at + along], 2.0, 26)
    canvas.line([at + 0.9 * along, at + 1.12 * along], 3.5, 60)
    return "polygon"


_DRAW: dict[str, Callable[[_Canvas, Chest, str, np.random.Generator], str | None]] = {
    "endotracheal tube": _endotracheal,
    "nasogastric tube": _nasogastric,
    "central line": _central_line,
    "picc": _picc,
    "pacemaker": _pacemaker,
    "sternal wires": _sternal_wires,
    "chest tube": _chest_tube,
    "ecg leads": _ecg_leads,
    "coin": _coin,
    "button": _button,
    "necklace": _necklace,
    "hairpin": _hairpin,
    "zip": _zip,
    "hook": _hook,
    "ring": _ring,
    "pen": _pen,
}
