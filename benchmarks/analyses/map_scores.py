"""How well maps point at outlined findings: two numbers per film, against three controls, over seeds and patients.

Two controls need no method: a centre prior, and the mean outline of the training films, which knows where the finding is
likely and sees no film. The third is the method's own map of another patient's film: a map that is no better than that
may show a habit of place and not the finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.scores import statistics

CENTRE, OUTLINES = "centre prior", "mean training outline"
POINTING, PIXEL_AUROC = "pointing game", "pixel AUROC"
AGAINST = ("over_another", "over_centre", "over_outline")  # another patient's map, the centre prior, the mean outline
COLUMNS = [
    "dataset", "label", "map", "asked", "metric", "value", "ci_low", "ci_high",
    *(f"{name}{end}" for name in AGAINST for end in ("", "_low", "_high")), "films", "patients", "seeds",
]  # fmt: skip


def enlarge(maps: np.ndarray, side: int) -> np.ndarray:
    """[n, h, w] -> [n, side, side], bilinear."""
    import torch
    from torch.nn import functional

    grid = torch.from_numpy(np.ascontiguousarray(maps)).unsqueeze(1)
    return functional.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False).squeeze(1).numpy()


def centre_prior(side: int) -> np.ndarray:
    """Minus the distance from the film's centre [side, side]: what a reader would point at without looking."""
    offset = np.arange(side) - (side - 1) / 2
    return -np.hypot(offset[:, None], offset[None, :])


def pointing(maps: np.ndarray, outlines: np.ndarray) -> np.ndarray:
    """Whether the highest pixel of map i lies inside outline j, [n, m]; of several equally high ones, the share that does.

    Parameters
    ----------
    maps : [n, S, S]. outlines : bool [m, S, S].
    """
    flat = maps.reshape(len(maps), -1)
    top, low = flat.max(axis=1, keepdims=True), flat.min(axis=1, keepdims=True)
    highest = (flat >= top - 1e-9 * (top - low)).astype(float)
    return highest / highest.sum(axis=1, keepdims=True) @ outlines.reshape(len(outlines), -1).T.astype(float)


def pixel_auroc(maps: np.ndarray, outlines: np.ndarray) -> np.ndarray:
    """Probability that a pixel inside outline j is higher in map i than one outside, ties one half: [n, m].

    By the rank sum (Mann & Whitney 1947), so that the ranks of a map serve all outlines. Shapes as of :func:`pointing`;
    no outline may be empty or the whole film.
    """
    ranks = stats.rankdata(maps.reshape(len(maps), -1), axis=1)
    inside = outlines.reshape(len(outlines), -1).T.astype(float)
    within = inside.sum(axis=0)
    return (ranks @ inside - within * (within + 1) / 2) / (within * (len(inside) - within))


METRICS = {POINTING: pointing, PIXEL_AUROC: pixel_auroc}
AT_ONCE = 64  # maps at the films' size: 26 MB of 224 pixels


def on_films(maps: np.ndarray, outlines: np.ndarray, patients: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By metric: what the map of each film scores on its own outline [n], and on it the maps of other patients' films, mean [n].

    The latter is NaN for a patient beside whom there is none.

    Parameters
    ----------
    maps : [n, h, w]. outlines : bool [n, S, S]. patients : [n].
    """
    every: dict[str, list[np.ndarray]] = {metric: [] for metric in METRICS}
    for start in range(0, len(maps), AT_ONCE):
        block = enlarge(maps[start : start + AT_ONCE], outlines.shape[1])
        for metric, score in METRICS.items():
            every[metric].append(score(block, outlines))
    others = patients[:, None] != patients[None, :]
    found = {}
    for metric, parts in every.items():
        scores = np.concatenate(parts)
        with np.errstate(invalid="ignore"):
            found[metric] = scores.diagonal().copy(), (scores * others).sum(axis=0) / others.sum(axis=0)
    return found


def measure(
    found: Sequence[Mapping[str, np.ndarray]],
    controls: Mapping[str, np.ndarray],
    outlines: np.ndarray,
    patients: np.ndarray,
    setting: tuple[int, float],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """One line per map and metric: the mean over films and seeds with its interval, and the paired differences to the
    controls with theirs (:data:`AGAINST`; NaN where a control is not there).

    Parameters
    ----------
    found : for each pre-training seed the maps by name, [n, h, w]. controls : maps that see no film, [S, S].
    outlines : bool [n, S, S]. patients : [n], of the films.
    setting : resamples of the patients, and the level of the intervals.
    rng : draws the resamples.
    """
    # In the order of the films: identifiers are hashed with a salt of the work folder, so their own order means nothing.
    codes, who = pd.factorize(patients)
    resamples, level = setting
    drawn = statistics.multiplicities(len(who), resamples, rng)[codes]  # [n, R]
    seen: dict[tuple[str, str], list[np.ndarray]] = {}  # of each seed [n]
    other: dict[tuple[str, str], list[np.ndarray]] = {}
    blind = {name: np.broadcast_to(values, outlines.shape) for name, values in controls.items()}
    for maps in [*found, blind]:
        for name, values in maps.items():
            for metric, (own, another) in on_films(values, outlines, codes).items():
                seen.setdefault((name, metric), []).append(own)
                other.setdefault((name, metric), []).append(another)
    lines = []
    for (name, metric), films in seen.items():
        against = [
            other[name, metric],
            *(seen.get((control, metric), [])[:1] * len(films) for control in (CENTRE, OUTLINES)),
        ]
        line: dict[str, object] = {"map": name, "metric": metric, "seeds": len(films)}
        line |= zip(("value", "ci_low", "ci_high"), _interval(films, drawn, len(who), level), strict=True)
        for key, control in zip(AGAINST, against, strict=True):
            gains = [a - b for a, b in zip(films, control, strict=True)] if control else []
            numbers = _interval(gains, drawn, len(who), level, bounded=False) if gains else (np.nan,) * 3
            line |= zip((key, f"{key}_low", f"{key}_high"), numbers, strict=True)
        lines.append(line)
    return pd.DataFrame(lines).assign(films=len(outlines), patients=len(who))


def _interval(
    films: list[np.ndarray], drawn: np.ndarray, patients: int, level: float, bounded: bool = True
) -> tuple[float, float, float]:
    """Mean and interval of numbers per film [n], one array per seed, by the resamples ``drawn`` [n, R]."""
    stacked = np.stack(films)
    resampled = stacked @ drawn / drawn.sum(axis=0)
    cell = statistics.estimate(
        stacked.mean(axis=1)[:, None], resampled[:, None], patients, seeded=len(films) > 1, drawn=False
    )
    low, high = statistics.confidence(replace(cell, bounded=bounded), level)
    # A handful of patients give intervals beyond what a difference can be; NaN stays.
    return cell.value, float(np.maximum(low, -1)), float(np.minimum(high, 1))
