"""The bootstrap on simulated data whose truth is known: coverage, pairing, draws and seeds, ranks."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.scores.statistics import better, combine, interval, multiplicities, tied_ranks


def test_multiplicities_are_resamples_of_the_same_size(rng):
    counts = multiplicities(50, 400, rng)
    assert counts.shape == (50, 400) and (counts.sum(axis=0) == 50).all()
    assert counts.mean(axis=1) == pytest.approx(np.ones(50), abs=0.25)
    assert counts.var() == pytest.approx(1, abs=0.05)  # multinomial, not subsets
    again = multiplicities(50, 400, np.random.default_rng(7))
    np.testing.assert_array_equal(counts, again)


def mean_replicates(values: np.ndarray, owner: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over images in each resample of the patients."""
    patients = weights.shape[0]
    return (np.bincount(owner, values, patients) @ weights) / (np.bincount(owner, minlength=patients) @ weights)


def one(units: int, replicates: int) -> np.ndarray:
    return np.ones((units, replicates))


def test_interval_covers_the_truth_although_images_of_a_patient_are_alike(rng):
    """60 patients with 4 images that share most of their error: resampling images would be far too sure."""
    owner = np.repeat(np.arange(60), 4)
    hits = {"patients": 0, "images": 0}
    trials = 250
    for _ in range(trials):
        values = rng.normal(size=60)[owner] + 0.3 * rng.normal(size=240)  # true mean 0
        for unit, units, count in (("patients", owner, 60), ("images", np.arange(240), 240)):
            replicates = mean_replicates(values, units, multiplicities(count, 200, rng))
            estimate = combine(np.array([[values.mean()]]), replicates[None, None], one(1, 200), one(1, 200), 0.9)
            hits[unit] += estimate.low <= 0 <= estimate.high
    assert 0.84 <= hits["patients"] / trials <= 0.95
    assert hits["images"] / trials < 0.75


def test_interval_holds_the_variation_between_draws(rng):
    """Ten draws whose metric differs far more than the patients do."""
    trials, replicates, hits, blind = 300, 200, 0, 0
    for _ in range(trials):
        draws = rng.normal(size=10)  # true mean 0
        resampled = draws[None, :, None] + 0.05 * rng.normal(size=(1, 1, replicates))
        counts = multiplicities(10, replicates, rng, fewer=1)
        estimate = combine(draws[None], resampled, one(1, replicates), counts, 0.9)
        fixed = combine(draws[None], resampled, one(1, replicates), one(10, replicates), 0.9)
        hits += estimate.low <= 0 <= estimate.high
        blind += fixed.low <= 0 <= fixed.high
    assert 0.82 <= hits / trials <= 0.95
    assert blind / trials < 0.4


@pytest.mark.parametrize("units", [2, 3, 5, 10])
def test_one_draw_less_gives_the_variance_of_the_mean(units, rng):
    values = rng.normal(size=units)
    for fewer, expected in ((1, values.var(ddof=1) / units), (0, values.var(ddof=0) / units)):
        counts = multiplicities(units, 20_000, rng, fewer=fewer)
        means = values @ counts / counts.sum(axis=0)
        assert means.var() == pytest.approx(expected, rel=0.05)


def test_a_single_draw_is_always_drawn(rng):
    assert (multiplicities(1, 10, rng, fewer=1) == 1).all()


def test_seeds_and_draws_are_crossed():
    values = np.array([[1.0, 2.0], [5.0, 8.0]])
    replicates = np.repeat(values[:, :, None], 3, axis=2)
    seeds = np.array([[2, 0, 1], [0, 2, 1]])  # per resample: seed 0 twice, seed 1 twice, each once
    draws = np.array([[1, 1, 2], [1, 1, 0]])
    estimate = combine(values, replicates, seeds, draws, 0.95)
    assert estimate.value == 4.0
    np.testing.assert_allclose(estimate.replicates, [1.5, 6.5, 3.0])


def test_undefined_resamples_are_left_out():
    replicates = np.array([[[np.nan, 1.0, 2.0]], [[np.nan, np.nan, 4.0]]])
    estimate = combine(np.array([[1.0], [3.0]]), replicates, one(2, 3), one(1, 3), 0.5)
    np.testing.assert_array_equal(estimate.replicates, [np.nan, 1.0, 3.0])
    assert (estimate.low, estimate.high) == (1.5, 2.5)
    assert all(np.isnan(interval(np.full(4, np.nan), 0.95)))


def test_pairing_separates_what_the_intervals_alone_do_not(rng):
    shared = rng.normal(size=100)
    weights = multiplicities(100, 1000, rng)
    a, b = (
        mean_replicates(shared + shift + 0.05 * rng.normal(size=100), np.arange(100), weights) for shift in (0.1, 0.0)
    )
    assert interval(a, 0.95)[0] < interval(b, 0.95)[1]  # they overlap by far
    assert better(a, b, 0.95) and not better(b, a, 0.95)
    unpaired = mean_replicates(shared, np.arange(100), multiplicities(100, 1000, rng))
    assert not better(a, unpaired, 0.95)


def test_methods_that_cannot_be_told_apart_share_a_rank(rng):
    noise = rng.normal(size=500)
    replicates = [0.9 + 0.01 * noise, 0.9 + 0.01 * noise, 0.8 + 0.01 * rng.normal(size=500), 0.5 + 0.01 * noise]
    ranking = tied_ranks([0.9, 0.9, 0.8, 0.5], replicates, 0.95)
    assert ranking.ranks == [1, 1, 3, 4]
    assert (ranking.pairs, ranking.separable) == (6, 5)
    assert ranking.smallest_gap == pytest.approx(0.1)


def test_not_separable_is_not_transitive(rng):
    wide, narrow = rng.normal(size=2000), rng.normal(size=2000)
    replicates = [0.02 + 0.001 * narrow, 0.01 + 0.02 * wide, 0.0 + 0.001 * narrow[::-1]]
    assert tied_ranks([0.02, 0.01, 0.0], replicates, 0.95).ranks == [1, 1, 2]


def test_false_separations_are_as_rare_as_the_level_says(rng):
    """Two methods of equal quality: their interval leaves out 0 in about 5 % of studies."""
    wrong, trials = 0, 300
    for _ in range(trials):
        weights = multiplicities(80, 300, rng)
        a, b = (mean_replicates((rng.random(80) < 0.7).astype(float), np.arange(80), weights) for _ in range(2))
        wrong += tied_ranks([0, 0], [a, b], 0.95).separable
    assert 0.01 <= wrong / trials <= 0.10


def test_ranking_of_nothing_and_of_one():
    assert tied_ranks([], [], 0.95).ranks == []
    alone = tied_ranks([0.5], [np.full(10, 0.5)], 0.95)
    assert alone.ranks == [1] and np.isnan(alone.smallest_gap)
