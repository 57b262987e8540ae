"""Intervals of metrics: equal to those of the literature, and wide enough that nineteen of twenty hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molvae.metrics.intervals import (
    RESAMPLES,
    Z,
    estimate_fraction,
    estimate_from_influence,
    estimate_from_resamples,
    estimate_mean,
    estimate_normal,
    estimate_uniqueness,
    iter_resamples,
    skip_resampling,
)


def measure_coverage(compute, draw, repetitions: int) -> tuple[float, float]:
    """Measure how often a metric's interval holds its mean over repetitions, and its mean error over its spread."""
    estimates = [compute(draw(np.random.default_rng(seed))) for seed in range(repetitions)]
    values = [repetition.value for repetition in estimates]
    is_held = [repetition.low <= np.mean(values) <= repetition.high for repetition in estimates]
    return float(np.mean(is_held)), float(np.mean([repetition.error for repetition in estimates]) / np.std(values))


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (5, 10, 0.2366, 0.7634), (1, 1, 0.2065, 1), (81, 263, 0.2553, 0.3662)],
)  # the last as in Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E
def test_interval_of_a_fraction_is_that_of_wilson(hits, n, low, high):
    estimate = estimate_fraction(hits, n)
    assert estimate.value == hits / n
    assert estimate.low == pytest.approx(low, abs=5e-5) and estimate.high == pytest.approx(high, abs=5e-5)
    assert estimate.error == pytest.approx((high - low) / 2 / Z, abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_of_a_fraction_holds_it_and_stays_between_zero_and_one(hits_and_n):
    estimate = estimate_fraction(*hits_and_n)
    assert 0 <= estimate.low <= estimate.value + 1e-12 and estimate.value - 1e-12 <= estimate.high <= 1


@given(
    st.floats(0, 1),
    st.floats(0, 1e-3) | st.just(0.0),
    st.sampled_from([(0.0, 1.0), (-math.inf, math.inf), (0.0, 0.9999999999999)]),
)
def test_interval_holds_its_value_whatever_rounding_does(value, error, limits):
    estimate = estimate_normal(value, error, *limits)
    assert estimate.low <= value <= estimate.high


@pytest.mark.parametrize("n", [1200, 30_000, 7, 1])
def test_interval_of_no_hit_begins_at_zero_and_of_all_ends_at_one(n):
    assert estimate_fraction(0, n).low == 0 and estimate_fraction(n, n).high == 1
    assert estimate_fraction(0, n).high > 0 and estimate_fraction(n, n).low < 1


def test_interval_of_a_mean_is_that_of_the_textbook():
    estimate = estimate_mean(np.array([1.0, 2.0, 3.0, 4.0]))
    assert estimate.value == 2.5
    assert estimate.error == pytest.approx(math.sqrt(1.25 / 4))
    assert estimate.high - estimate.value == estimate.value - estimate.low == pytest.approx(1.959964 * estimate.error)


def test_influences_of_any_mean_have_the_error_of_their_spread_and_constant_ones_have_none():
    influence = np.random.default_rng(0).normal(size=100)
    error = estimate_from_influence(0.3, influence).error
    assert estimate_from_influence(0.3, influence + 5).error == pytest.approx(error)
    assert estimate_from_influence(0.3, np.full(7, 2.0)) == estimate_normal(0.3, 0.0) == (0.3, 0.0, 0.3, 0.3)


@given(st.floats(0, 1), st.floats(0, 3))
def test_interval_is_cut_at_the_extreme_values_of_the_metric(value, error):
    influence, normal_error = np.array([-error, error]), error / math.sqrt(2)
    uncut = estimate_normal(value, normal_error)
    for cut in (estimate_normal(value, normal_error, 0, 1), estimate_from_influence(value, influence, 0, 1)):
        assert cut.error == pytest.approx(uncut.error)
        assert cut.low == pytest.approx(max(0, uncut.low)) and cut.high == pytest.approx(min(1, uncut.high))
    assert estimate_mean(np.array([0.0, 1.0]), 0.25, 0.75)[2:] == (0.25, 0.75)


def test_error_from_resamples_is_their_spread_and_a_value_that_is_not_a_number_has_no_estimate():
    resampled = [0.2, 0.4, math.nan, 0.6]
    estimate = estimate_from_resamples(0.5, resampled, 0, 0.6)
    assert estimate == (0.5, pytest.approx(np.std([0.2, 0.4, 0.6])), pytest.approx(0.5 - Z * estimate.error), 0.6)
    assert estimate_from_resamples(math.nan, resampled) == (None, None, None, None)


def test_resamples_draw_n_of_n_samples_and_are_the_same_each_time():
    resamples = np.array(list(iter_resamples(7)))
    assert resamples.shape == (RESAMPLES, 7) and (resamples.sum(1) == 7).all()
    np.testing.assert_array_equal(resamples, list(iter_resamples(7)))
    assert len(np.unique(resamples, axis=0)) > RESAMPLES / 2


def test_errors_that_need_resamples_are_zero_while_resampling_is_skipped():
    draws = list("abacadefgg")
    expected = estimate_uniqueness(draws)
    with skip_resampling():
        assert list(iter_resamples(7)) == []
        assert estimate_uniqueness(draws) == (expected.value, 0, expected.value, expected.value)
    assert estimate_uniqueness(draws) == expected and expected.error > 0


@pytest.mark.parametrize(
    ("compute", "draw"),
    [
        (estimate_mean, lambda random: random.exponential(size=200)),
        (lambda hits: estimate_fraction(hits, 150), lambda random: int(random.binomial(150, 0.1))),
    ],
    ids=["mean", "fraction"],
)
def test_intervals_of_means_and_fractions_hold_the_truth_nineteen_times_of_twenty(compute, draw):
    coverage, width = measure_coverage(compute, draw, 300)
    assert 0.9 <= coverage <= 0.99 and width == pytest.approx(1, abs=0.1)


def draw_from_zipf(random: np.random.Generator) -> list[int]:
    weights = 1 / np.arange(1, 4001)
    return random.choice(4000, 600, p=weights / weights.sum()).tolist()


def draw_evenly(random: np.random.Generator) -> list[int]:
    """Draw numbers of which four or five come again: too few for more than a rough width."""
    return random.integers(10**6, size=3000).tolist()


@pytest.mark.parametrize(
    ("draw", "repetitions", "tolerance"),
    [(draw_from_zipf, 300, 0.1), (draw_evenly, 120, 0.3)],
    ids=["frequent and rare", "all alike"],
)
def test_intervals_of_uniqueness_hold_the_truth_nineteen_times_of_twenty(draw, repetitions, tolerance):
    coverage, width = measure_coverage(estimate_uniqueness, draw, repetitions)
    assert 0.9 <= coverage <= 0.99 and width == pytest.approx(1, abs=tolerance)


def test_uniqueness_is_the_fraction_of_distinct_draws_and_the_same_each_time():
    draws = list("abacadefgg")
    assert estimate_uniqueness(draws).value == 0.7
    assert estimate_uniqueness(draws) == estimate_uniqueness(draws)
    assert estimate_uniqueness(draws) == estimate_uniqueness([letter.upper() for letter in draws])


def test_uniqueness_of_draws_that_are_all_the_same_has_no_error():
    assert estimate_uniqueness(["C"] * 1000) == pytest.approx((0.001, 0, 0.001, 0.001))
    assert estimate_uniqueness(["C"]) == (1, 0, 1, 1)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_interval_of_uniqueness_holds_it_for_any_draws(draws):
    estimate = estimate_uniqueness(draws)
    assert estimate.value == len(set(draws)) / len(draws)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1 and math.isfinite(estimate.error)


def test_uniqueness_of_draws_that_are_all_different_still_has_an_error():
    estimate = estimate_uniqueness(range(1000))
    assert estimate.value == estimate.high == 1 and 0.99 < estimate.low < 1
