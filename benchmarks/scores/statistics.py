"""Intervals, comparisons and ranks of the tables.

A cell is a mean over pre-training seeds and label draws on one test set. Its variance has three parts that are estimated
apart and added:

- *patients*: the variance of that mean over bootstrap resamples of the test patients, times n/(n - 1);
- *draws* and *seeds*: the two-way analysis of variance of a crossed design with random effects, Var(mean) =
  (MS_seeds + MS_draws - MS_both) / (S D) (Searle, Casella & McCulloch 1992, "Variance components", chapter 4), less what
  of each mean square the patients alone account for, which the same resamples show.

The sum has the degrees of freedom of Satterthwaite (1946), "An approximate distribution of estimates of variance
components"; a difference of two methods those of Welch (1947). Test patients and label draws are the same for all methods
of a table, so differences are paired in them; seeds of two methods have nothing in common. A part of which there is one
seed, or one draw, cannot be estimated: then nothing is ranked, and the tables say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats


def multiplicities(units: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of ``units`` patients is drawn in each resample: float32 [units, replicates]."""
    drawn = rng.integers(0, units, size=(replicates, units))
    drawn += units * np.arange(replicates)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=units * replicates).reshape(replicates, units)
    return np.ascontiguousarray(counts.T, dtype=np.float32)


def interval(replicates: np.ndarray, level: float) -> tuple[float, float]:
    """Percentile interval [low, high] of the resamples in which the metric was defined; NaN if there were none."""
    kept = replicates[np.isfinite(replicates)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Draws:
    """The label draws behind an estimate, each a mean over the seeds."""

    values: np.ndarray  # [D]
    replicates: np.ndarray  # [D, R] in the resamples of the patients
    both: float = 0.0  # the part of the variance that seeds and draws have together, which the seeds hold already
    drawn: bool = True  # False: all labels are used, or none, so there is no choice to vary

    def __sub__(self, other: Draws) -> Draws:
        return Draws(self.values - other.values, self.replicates - other.replicates, self.both + other.both, self.drawn)

    def scaled(self, factor: float) -> Draws:
        return Draws(factor * self.values, factor * self.replicates, factor**2 * self.both, self.drawn)

    def part(self, least: float = 0.0, freedom: float = 0.0) -> Part:
        """What the choice of labels adds to the variance of the mean; ``least``, ``freedom``: see :func:`_at_least`."""
        if not self.drawn:
            return Part(0.0, 0.0, 0.0)
        raw, noise = _between(self.values, self.replicates)
        raw, freedom = _at_least(raw, len(self.values) - 1, least, freedom)
        return Part.above(raw, noise + self.both, freedom)


@dataclass(frozen=True)
class Part:
    """A source's part in the variance of a mean, the mean square behind it and its degrees of freedom; NaN if unknown."""

    variance: float
    raw: float
    freedom: float

    @classmethod
    def above(cls, raw: float, noise: float, freedom: float) -> Part:
        """The part of a mean square that ``noise`` does not account for."""
        return cls(float(np.maximum(0.0, raw - noise)), raw, freedom)  # NaN stays NaN


@dataclass(frozen=True)
class Variance:
    """Variance of an estimate by source; NaN where a source has one member, so that nothing is known of it."""

    patients: float
    draws: float
    seeds: float
    freedom: float  # Satterthwaite's degrees of freedom of the sum

    @property
    def total(self) -> float:
        """The sum of what is known."""
        return float(np.nansum([self.patients, self.draws, self.seeds]))

    @property
    def known(self) -> bool:
        return bool(np.isfinite([self.draws, self.seeds]).all())


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and draws, and what its variance is estimated from."""

    value: float
    seeds: np.ndarray  # [S] mean over the draws
    replicates: np.ndarray  # [S, R] the same in the resamples of the patients; NaN where undefined
    draws: tuple[Draws, ...]  # one; of a mean of several columns one each, as their draws are independent
    units: int  # patients that carry it (of an AUROC: those of the rarer class)
    seeded: bool = True  # False: nothing in it depends on the pre-training seed
    bounded: bool = True  # lies in [0, 1]

    @property
    def variance(self) -> Variance:
        draws = [d.part() for d in self.draws]
        return _sum(self.replicates.mean(axis=0), self.units, [ALONE.seeds(self)], draws)


def _between(values: np.ndarray, replicates: np.ndarray) -> tuple[float, float]:
    """Variance of the mean of ``values`` [K] from their spread, and how much of it the patients make ([K, R]); NaN if K = 1."""
    number = len(values)
    if number < 2:
        return float("nan"), float("nan")
    moved = replicates - values[:, None]
    return float(values.var(ddof=1)) / number, float(np.nanmean(moved.var(axis=0, ddof=1))) / number


def _at_least(raw: float, own: float, least: float, freedom: float) -> tuple[float, float]:
    """A mean square with ``own`` degrees of freedom, or the common one where that is larger; and the degrees it then has.

    Above the common one they fall with the squared ratio of the two from all towards its own: simulated, this holds the
    error rate where one method varies four times as much as five others, which all or none of them does not.
    """
    if np.isnan(raw) or raw > least:
        return raw, own + max(0.0, freedom - own) * (0.0 if np.isnan(raw) else (least / raw) ** 2)
    return least, max(freedom, own)


def _sum(replicates: np.ndarray, units: int, seeds: Sequence[Part], draws: Sequence[Part]) -> Variance:
    """Add the sources; ``replicates`` [R] are the resamples of the patients."""
    kept = replicates[np.isfinite(replicates)]
    enough = units > 1 and len(kept) > 1
    patients = float(kept.var(ddof=1)) * units / (units - 1) if enough else float("nan")
    parts = [Part(patients, patients, units - 1), *seeds, *draws]
    weight = sum(part.raw**2 / part.freedom for part in parts if part.freedom > 0 and part.raw > 0)
    by_seed, by_draw = sum(part.variance for part in seeds), sum(part.variance for part in draws)
    total = float(np.nansum([patients, by_seed, by_draw]))
    return Variance(patients, by_draw, by_seed, total**2 / weight if weight > 0 else float("inf"))


def estimate(
    values: np.ndarray, replicates: np.ndarray, units: int, *, seeded: bool = True, drawn: bool = True
) -> Estimate:
    """One cell.

    Parameters
    ----------
    values : [S, D] the metric of each seed and draw on the test images.
    replicates : [S, D, R] the same in each resample of the patients (NaN where undefined).
    units : patients that carry the metric.
    seeded : whether the row depends on the pre-training seed; if not, its seed variance is 0 by construction.
    drawn : whether the labels are a choice among several.
    """
    seeds, number = values.shape
    by_seed, by_draw = replicates.mean(axis=1), replicates.mean(axis=0)
    both = 0.0
    if seeds > 1 and number > 1 and drawn:
        rest = lambda x: x - x.mean(axis=0, keepdims=True) - x.mean(axis=1, keepdims=True) + x.mean(axis=(0, 1))  # noqa: E731
        square = lambda x: (x**2).sum(axis=(0, 1)) / ((seeds - 1) * (number - 1) * seeds * number)  # noqa: E731
        moved = rest(replicates - values[:, :, None])
        both = max(0.0, float(square(rest(values)) - np.nanmean(square(moved))))
    draws = Draws(values.mean(axis=0), by_draw, both, drawn)
    return Estimate(float(values.mean()), values.mean(axis=1), by_seed, (draws,), units, seeded)


def mean_of(estimates: Sequence[Estimate], weights: Sequence[float], shift: float = 0.0) -> Estimate:
    """The weighted sum of estimates of ONE method, plus ``shift``: its seeds go through all of them, its draws do not.

    Resample r of every estimate must draw the same patients where the test sets are the same.
    """
    parts = list(zip(weights, estimates, strict=True))
    return Estimate(
        sum(w * e.value for w, e in parts) + shift,
        np.sum([w * e.seeds for w, e in parts], axis=0) + shift,
        np.sum([w * e.replicates for w, e in parts], axis=0) + shift,
        tuple(d.scaled(w) for w, e in parts for d in e.draws),
        min(e.units for e in estimates),
        estimates[0].seeded,
        bounded=False,
    )


def confidence(found: Estimate, level: float) -> tuple[float, float]:
    """The interval [low, high] of an estimate, by Student's t on the logit scale where it lies in [0, 1].

    Its middle is the value less the bias that the resamples show (Efron & Tibshirani 1993, chapter 10): mAP and everything
    else that takes a maximum over the test images comes out too high on few of them. The value itself is left as it is.
    At exactly 0 or 1 without variance it is that of ``units`` successes of as many trials (Clopper & Pearson 1934).
    """
    variance = found.variance
    if not np.isfinite(variance.patients):
        return float("nan"), float("nan")
    value, spread = found.value, float(np.sqrt(variance.total))
    if found.bounded and value in (0.0, 1.0):
        far = ((1 - level) / 2) ** (1 / found.units)
        return (0.0, 1 - far) if value == 0 else (far, 1.0)
    far = float(stats.t.ppf((1 + level) / 2, variance.freedom)) * spread
    bias = float(np.nanmean(found.replicates.mean(axis=0))) - value
    if not found.bounded:
        return value - bias - far, value - bias + far
    slope = value * (1 - value)
    middle, far = special.logit(value) - bias / slope, far / slope
    return float(special.expit(middle - far)), float(special.expit(middle + far))


@dataclass(frozen=True)
class Pool:
    """The variance between trainings, and between label draws, over all methods of a column.

    With two or three seeds a method's own variance is hardly known: by luck it comes out far too small, and tests as far
    out in the tail as Holm's adjustment asks for go wrong. In comparisons it therefore counts as no smaller than the mean
    over the methods, with the degrees of freedom of all of them. A method that varies more keeps its own, and the more it
    stands out, the fewer degrees of freedom of the others. The same holds for what a draw of labels does to two methods differently: the mean square of methods by draws.
    """

    between: float = 0.0  # variance of one training
    freedom: float = 0.0
    by_draw: tuple[
        tuple[float, float], ...
    ] = ()  # of each of an estimate's draws: variance of a mean difference, freedom

    @classmethod
    def of(cls, found: Iterable[Estimate]) -> Pool:
        methods = list(found)
        several = [e for e in methods if e.seeded and len(e.seeds) > 1]
        freedom = sum(len(e.seeds) - 1 for e in several)
        squares = sum(float(e.seeds.var(ddof=1)) * (len(e.seeds) - 1) for e in several)
        by_draw = []
        for draws in zip(*(e.draws for e in methods), strict=True):
            values = np.stack([d.values for d in draws])
            free = (values.shape[0] - 1) * (values.shape[1] - 1)
            rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
            by_draw.append((2 * float((rest**2).sum()) / free / values.shape[1] if free else 0.0, float(free)))
        return cls(squares / freedom if freedom else 0.0, freedom, tuple(by_draw))

    def seeds(self, one: Estimate) -> Part:
        """What the seeds of a method add to the variance of its mean."""
        if not one.seeded:
            return Part(0.0, 0.0, 0.0)
        raw, noise = _between(one.seeds, one.replicates)
        raw, freedom = _at_least(raw, len(one.seeds) - 1, self.between / len(one.seeds), self.freedom)
        return Part.above(raw, noise, freedom)

    def draws(self, both: Sequence[Draws]) -> list[Part]:
        """What the draws add to the variance of a difference."""
        return [d.part(*least) for d, least in zip(both, self.by_draw or [(0.0, 0.0)] * len(both), strict=True)]


ALONE = Pool()


@dataclass(frozen=True)
class Difference:
    """``a - b`` of two methods on the same patients and draws."""

    value: float
    variance: Variance

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference (Welch); NaN where a source of variance is unknown."""
        if not self.variance.known or not np.isfinite(self.variance.patients):
            return float("nan")
        spread = np.sqrt(self.variance.total)
        if spread == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.value) / spread, self.variance.freedom))

    def interval(self, level: float) -> tuple[float, float]:
        """[low, high] by Student's t; NaN where a source of variance is unknown."""
        if not self.variance.known or not np.isfinite(self.variance.patients):
            return float("nan"), float("nan")
        far = float(stats.t.ppf((1 + level) / 2, self.variance.freedom)) * float(np.sqrt(self.variance.total))
        return self.value - far, self.value + far


def difference(a: Estimate, b: Estimate, pool: Pool = ALONE) -> Difference:
    """The paired difference: patients and draws in common, seeds apart."""
    draws = [x - y for x, y in zip(a.draws, b.draws, strict=True)]
    replicates = a.replicates.mean(axis=0) - b.replicates.mean(axis=0)
    seeds = [pool.seeds(a), pool.seeds(b)]
    return Difference(a.value - b.value, _sum(replicates, min(a.units, b.units), seeds, pool.draws(draws)))


def holm(p: Sequence[float]) -> np.ndarray:
    """P-values adjusted for their number, so that the chance of any false rejection is bounded (Holm 1979)."""
    found = np.asarray(p, dtype=float)
    order = np.argsort(found)
    steps = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    adjusted = np.empty(len(found))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


@dataclass(frozen=True)
class Ranking:
    """Which ranks each method of a column may have, and how finely methods could be told apart."""

    ranks: dict[str, tuple[int, int]]  # method -> (best, worst) rank; empty where nothing can be ranked
    smallest_gap: float = float("nan")  # smallest difference of values that was separable, NaN if none was
    pairs: int = 0  # pairs of methods compared
    separable: int = 0  # pairs told apart after Holm's adjustment
    better: frozenset[tuple[str, str]] = frozenset()  # (better, worse) of each of these
    leaders: frozenset[str] = frozenset()  # neither they nor a method of a higher value are separably worse than any


def rank(found: Mapping[str, Estimate], level: float) -> Ranking:
    """Intervals of ranks from all pairs, Holm-adjusted, so that with probability ``level`` all of them hold.

    The best rank of a method is 1 plus the number of methods separably better, its worst the number of methods less those
    separably worse (Mohamad, Goeman & van Zwet 2019, "Simultaneous confidence intervals for ranks"). These need not follow
    the values, since a method with a wide interval is told from fewer: each is widened to the best rank of any method of
    no higher value and to the worst of any of no lower, so a higher value never has a worse rank.
    """
    names = list(found)
    pairs = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    pool = Pool.of(found.values())
    compared = [difference(found[a], found[b], pool) for a, b in pairs]
    p = [c.p for c in compared]
    if not names or not all(found[n].variance.known for n in names) or not np.isfinite(p).all():
        return Ranking({})
    better = {
        (a, b) if c.value > 0 else (b, a)
        for (a, b), c, adjusted in zip(pairs, compared, holm(p), strict=True)
        if adjusted <= 1 - level
    }
    best = {n: 1 + sum(worse == n for _, worse in better) for n in names}
    worst = {n: len(names) - sum(higher == n for higher, _ in better) for n in names}
    ranks = {
        n: (
            min(best[m] for m in names if found[m].value <= found[n].value),
            max(worst[m] for m in names if found[m].value >= found[n].value),
        )
        for n in names
    }
    gaps = [abs(found[a].value - found[b].value) for a, b in better]
    beaten = max((found[worse].value for _, worse in better), default=float("-inf"))
    leaders = frozenset(n for n in names if found[n].value > beaten)
    return Ranking(ranks, min(gaps, default=float("nan")), len(pairs), len(better), frozenset(better), leaders)


def above_all(found: Mapping[str, Estimate], controls: Mapping[str, Estimate], level: float) -> dict[str, bool]:
    """Which methods are separably better than EVERY control; empty where that cannot be said.

    For one method the largest of its p-values holds the level (intersection-union test, Berger 1982); over the methods
    these are adjusted by Holm.
    """
    if not controls or not found:
        return {}
    pool = Pool.of(found.values())
    largest = []
    for one in found.values():
        against = [difference(one, control, pool) for control in controls.values()]
        p = [c.p for c in against]
        if not np.isfinite(p).all():
            return {}
        largest.append(1.0 if min(c.value for c in against) <= 0 else max(p))
    return {name: bool(p <= 1 - level) for name, p in zip(found, holm(largest), strict=True)}
