"""``make coverage``: how often the tables' intervals and comparisons are right, on simulated studies whose truth is known.

Predictions are drawn, and go through the metrics and statistics that the tables use. An image has a difficulty that all
methods share and an error of each training; a training has a quality of its own (pre-training seed), and so has a label
draw. The truth of a cell is the mean over all trainings, draws and patients that could have been. The table is
written into ``docs/tables.md``; a value outside its bounds is printed as a miss.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats
from tabulate import tabulate

from benchmarks.scores.metrics import METRICS
from benchmarks.scores.statistics import (
    Estimate,
    Pool,
    above_all,
    confidence,
    difference,
    estimate,
    holm,
    multiplicities,
)
from mlip.paths import ROOT

PAGE = ROOT / "docs" / "tables.md"
START, END = "<!-- coverage: written by `make coverage` -->", "<!-- end of coverage -->"
LEVEL, REPLICATES, METHODS = 0.95, 200, 6
COVERED, FALSE = (0.93, 0.97), 0.06  # what must be held
OWN = 0.7  # standard deviation of a training's own error of an image; that of the difficulty is 1
PIXELS = 10_000
NAMES = {"auroc": "AUROC", "accuracy": "accuracy", "dice": "Dice", "map": "mAP", "recall_at": "recall"}
ARGS: dict[str, dict[str, Any]] = {"recall_at": {"k": 1}, "map": {"ious": [0.5]}, "dice": {"empty": "skip"}}


@dataclass(frozen=True)
class Setting:
    """A simulated study; standard deviations are in units of an image's difficulty."""

    metric: str
    images: int = 400
    seeds: int = 3
    draws: int = 1
    seed_sd: float = 0.0  # between trainings
    draw_sd: float = 0.0  # between label draws, half of its variance common to all methods
    per_patient: int = 1  # images of a patient, alike in difficulty
    quality: float = 1.0
    share: float = 0.3  # of images with the finding
    wild: float = 1.0  # the trainings of one method vary so many times as much


@dataclass
class World:
    """One test set."""

    setting: Setting
    rng: np.random.Generator

    def __post_init__(self) -> None:
        s, rng = self.setting, self.rng
        self.patient = np.arange(s.images) // s.per_patient
        among = rng.normal(size=self.patient[-1] + 1)[self.patient]
        alone = rng.normal(size=s.images)
        self.difficulty = alone if s.per_patient == 1 else np.sqrt(0.8) * among + np.sqrt(0.2) * alone
        self.positive = np.zeros(s.images, dtype=bool)
        self.positive[rng.permutation(s.images)[: max(1, round(s.share * s.images))]] = True
        self.boxes = np.where(self.positive, rng.integers(1, 3, s.images), 0)
        self.common = np.sqrt(0.5) * s.draw_sd * rng.normal(size=s.draws)

    @cached_property
    def weights(self) -> np.ndarray:
        """Resamples of the patients."""
        return multiplicities(int(self.patient[-1]) + 1, REPLICATES, self.rng)

    @property
    def units(self) -> int:
        if self.setting.metric in ("auroc", "map"):
            return len(np.unique(self.patient[self.positive]))
        return len(self.weights)

    def method(self, seeds: int | None = None, wild: float = 1.0) -> Estimate:
        """A method of the setting's quality; ``seeds`` 0 is a row in which nothing depends on the seed.

        ``wild``: its trainings vary so many times as much.
        """
        s, rng = self.setting, self.rng
        number = s.seeds if seeds is None else max(1, seeds)
        values, replicates = np.empty((number, s.draws)), np.empty((number, s.draws, REPLICATES))
        by_draw = self.common + np.sqrt(0.5) * s.draw_sd * rng.normal(size=s.draws)
        for k in range(number):
            of_seed = 0.0 if seeds == 0 else wild * s.seed_sd * rng.normal()
            for d in range(s.draws):
                frame, units = self.predictions(s.quality + of_seed + by_draw[d])
                found = METRICS[s.metric].resample(frame, units, self.weights, ARGS.get(s.metric))
                values[k, d], replicates[k, d] = found
        return estimate(values, replicates, self.units, seeded=seeds != 0, drawn=s.draws > 1)

    def predictions(self, quality: float) -> tuple[pd.DataFrame, np.ndarray]:
        n, rng = self.setting.images, self.rng
        latent = self.difficulty + OWN * rng.normal(size=n)
        if self.setting.metric == "auroc":
            y = self.positive.astype(float)
            return pd.DataFrame({"label": "a", "y": y, "p": quality * y + latent}), self.patient
        if self.setting.metric == "accuracy":
            return pd.DataFrame({"label": "a", "y": 1.0, "p": special.expit(quality + latent)}), self.patient
        if self.setting.metric == "recall_at":
            other = self.difficulty + OWN * rng.normal(size=n)
            ranks = np.where(quality + np.concatenate([latent, other]) > 0, 0, 9)
            return pd.DataFrame({"label": np.repeat(["a", "b"], n), "rank": ranks}), np.tile(self.patient, 2)
        if self.setting.metric == "dice":
            area = np.full(n, float(PIXELS))
            tp = PIXELS * special.expit(quality + latent)
            return pd.DataFrame({"tp": tp, "predicted": area, "truth": area}), self.patient
        found, wrong = rng.binomial(self.boxes, special.expit(quality + latent)), rng.poisson(1.5, n)
        own = self.difficulty * 0.5
        owner = np.concatenate([np.repeat(np.arange(n), found), np.repeat(np.arange(n), wrong)])
        true = np.arange(len(owner)) < found.sum()
        score = quality * true + own[owner] + rng.normal(size=len(owner))
        order = np.argsort(owner, kind="stable")
        cuts = np.cumsum(found + wrong)[:-1]
        scores, matched = np.split(score[order], cuts), np.split(true[order].astype(np.int64), cuts)
        return pd.DataFrame({"n_truth": self.boxes, "scores": scores, "matched": matched}), self.patient


def truth(s: Setting) -> float:
    """The mean over trainings, draws and patients: in closed form, by quadrature, or (mAP) on large test sets."""
    own = 1 + OWN**2
    between = s.seed_sd**2 + s.draw_sd**2
    if s.metric == "auroc":
        return float(stats.norm.cdf(s.quality / np.sqrt(2 * own + between)))
    if s.metric in ("accuracy", "recall_at"):
        return float(stats.norm.cdf(s.quality / np.sqrt(own + between)))
    if s.metric == "dice":
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        return float((weights * special.expit(s.quality + np.sqrt(own + between) * nodes)).sum() / weights.sum())
    return _map_truth(replace(s, images=100_000))


@cache
def _map_truth(s: Setting) -> float:
    large = [World(s, np.random.default_rng(k)) for k in range(6)]
    return float(np.mean([METRICS["map"].value(world.predictions(s.quality)[0], ARGS["map"]) for world in large]))


@dataclass(frozen=True)
class Line:
    """One line of the table: what is simulated, what should come out, and what did."""

    asked: str
    setting: str
    wanted: tuple[float, float]
    hits: int
    trials: int

    @property
    def text(self) -> list[str]:
        rate = self.hits / self.trials
        error = np.sqrt(max(rate * (1 - rate), 0.25 / self.trials) / self.trials)
        low, high = self.wanted
        bounds = f"{100 * low:.0f} to {100 * high:.0f}" if low else f"at most {100 * high:.0f}"
        verdict = "held" if low <= rate <= high else "**miss**"
        return [self.asked, self.setting, bounds, f"{100 * rate:.1f} ± {100 * error:.1f}", f"{self.trials}", verdict]


def covered(s: Setting, words: str, trials: int, seed: int) -> Line:
    """How often the interval of a cell holds the truth."""
    true, hits = truth(s), 0
    for trial in range(trials):
        low, high = confidence(World(s, np.random.default_rng([seed, trial])).method(), LEVEL)
        hits += low <= true <= high
    return Line("interval holds the truth", words, COVERED, hits, trials)


def equal(s: Setting, words: str, trials: int, seed: int) -> Iterable[Line]:
    """How often equal methods are told apart: of all pairs unadjusted, and columns with any pair after Holm."""
    pairs = separated = columns = 0
    for trial in range(trials):
        methods = _equal_methods(World(s, np.random.default_rng([seed, trial])))
        pool = Pool.of(methods)
        p = [difference(a, b, pool).p for k, a in enumerate(methods) for b in methods[k + 1 :]]
        pairs += len(p)
        separated += sum(x <= 1 - LEVEL for x in p)
        columns += bool(holm(p).min() <= 1 - LEVEL)
    yield Line("equal methods: pairs told apart, unadjusted", words, (0, FALSE), separated, pairs)
    yield Line("equal methods: columns with any pair after Holm", words, (0, FALSE), columns, trials)


def above(s: Setting, words: str, trials: int, seed: int) -> Line:
    """How often any method is called above a control of the same quality in which nothing depends on the seed."""
    hits = 0
    for trial in range(trials):
        world = World(s, np.random.default_rng([seed, trial]))
        methods = {str(k): method for k, method in enumerate(_equal_methods(world))}
        hits += any(above_all(methods, {"control": world.method(seeds=0)}, LEVEL).values())
    return Line("a method called above an equal control", words, (0, FALSE), hits, trials)


def _equal_methods(world: World) -> list[Estimate]:
    return [world.method(wild=world.setting.wild if k == 0 else 1.0) for k in range(METHODS)]


SPREADS = ((0.0, "trainings alike"), (0.03, "trainings vary little"), (0.3, "trainings vary most"))


def lines(scale: float) -> Iterable[Line]:
    """Every line of the table; ``scale`` multiplies the number of simulated studies."""
    number: Callable[[float], int] = lambda n: max(4, int(scale * n))  # noqa: E731
    for metric, name in NAMES.items():
        for images in (100, 400, 4000):
            trials = number((600 if metric == "map" else 1500) * (1 if images < 4000 else 0.4))
            yield covered(Setting(metric, images, seeds=1), f"{name}, {images} images, one given encoder", trials, 1)
    for positives in (5, 10, 20):
        s = Setting("auroc", 400, seeds=1, share=positives / 400)
        yield covered(s, f"AUROC, {positives} positives of 400", number(1000), 2)
    for quality, words in ((2.5, "near 1"), (-2.5, "near 0")):
        s = Setting("accuracy", 400, seeds=1, quality=quality)
        yield covered(s, f"accuracy {words}, 400 images", number(1500), 2)
    clustered = Setting("auroc", 400, seeds=1, per_patient=4)
    yield covered(clustered, "AUROC, 100 patients of 4 images alike", number(1000), 3)
    for sd, words in SPREADS[1:]:
        for seeds in (1, 2, 3, 5):
            s = Setting("dice", 400, seeds=seeds, seed_sd=sd)
            yield covered(s, f"Dice, 400 images, {_count(seeds, 'seed')}, {words}", number(1500), 4)
    for draws in (1, 2, 3, 5, 10):
        s = Setting("dice", 400, draws=draws, draw_sd=0.3)
        yield covered(s, f"Dice, 400 images, 3 seeds, {_count(draws, 'draw')} of labels that vary most", number(700), 5)
    for sd, words in SPREADS:
        for seeds in (2, 3, 5):
            s = Setting("dice", 400, seeds=seeds, seed_sd=sd)
            yield from equal(s, f"Dice, 400 images, {seeds} seeds, {words}", number(600), 6)
    for seeds in (2, 3, 5):
        s = Setting("dice", 400, seeds=seeds, seed_sd=0.1, wild=4)
        yield from equal(s, f"Dice, 400 images, {seeds} seeds, one method varies 4 times as much", number(600), 6)
    for metric in ("auroc", "map"):
        for images in (100, 400):
            trials = number({"auroc": 300, "map": 150}[metric])
            s = Setting(metric, images, seed_sd=0.1)
            yield from equal(s, f"{NAMES[metric]}, {images} images, 3 seeds", trials, 7)
    s = Setting("accuracy", 400, seed_sd=0.05, per_patient=4)
    yield from equal(s, "accuracy, 100 patients of 4 images alike, 3 seeds", number(500), 8)
    for draws in (2, 3, 5):
        s = Setting("dice", 400, draws=draws, seed_sd=0.1, draw_sd=0.3)
        yield from equal(s, f"Dice, 400 images, 3 seeds, {draws} draws of labels that vary most", number(250), 9)
    for sd, words in SPREADS:
        s = Setting("dice", 400, seed_sd=sd)
        yield above(s, f"Dice, 400 images, 3 seeds against a row without seeds, {words}", number(600), 10)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("s" if number > 1 else "")


def table(found: Iterable[Line]) -> str:
    head = ["question", "simulated", "wanted %", "found %", "of", ""]
    return tabulate([line.text for line in found], headers=head, tablefmt="github", disable_numparse=True)


def write(text: str, page: Path = PAGE) -> None:
    """Put the table between its two marks."""
    whole = page.read_text(encoding="utf-8")
    before, _, rest = whole.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the simulated studies; below 1 nothing is written"
    )
    scale = parser.parse_args().scale
    found = []
    for line in lines(scale):
        found.append(line)
        print(" | ".join(line.text), flush=True)
    if scale >= 1:
        write(table(found))


if __name__ == "__main__":
    main()
