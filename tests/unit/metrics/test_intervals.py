"""Intervals: those of the literature, and wide enough that nineteen of twenty hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molvae.metrics.intervals import Z, around, of_influence, of_mean, of_share, of_uniqueness


def repeated(of, draw, repetitions: int) -> tuple[float, float]:
    """How often the interval of a figure holds its mean over all repetitions; its mean error over its spread."""
    found = [of(draw(np.random.default_rng(seed))) for seed in range(repetitions)]
    values = [estimate.value for estimate in found]
    holds = [estimate.low <= np.mean(values) <= estimate.high for estimate in found]
    return float(np.mean(holds)), float(np.mean([estimate.error for estimate in found]) / np.std(values))


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (5, 10, 0.2366, 0.7634), (1, 1, 0.2065, 1), (81, 263, 0.2553, 0.3662)],
)  # the last as in Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E
def test_the_interval_of_a_share_is_that_of_wilson(hits, n, low, high):
    found = of_share(hits, n)
    assert found.value == hits / n
    assert found.low == pytest.approx(low, abs=5e-5) and found.high == pytest.approx(high, abs=5e-5)
    assert found.error == pytest.approx((high - low) / 2 / Z, abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_holds_it_and_stays_between_none_and_all(share):
    found = of_share(*share)
    assert 0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1


def test_the_interval_of_a_mean_is_that_of_the_textbook():
    found = of_mean(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.value == 2.5
    assert found.error == pytest.approx(math.sqrt(1.25 / 4))
    assert found.high - found.value == found.value - found.low == pytest.approx(1.959964 * found.error)


def test_influences_may_have_any_mean_and_what_does_not_vary_has_no_error():
    some = np.random.default_rng(0).normal(size=100)
    assert of_influence(0.3, some + 5).error == pytest.approx(of_influence(0.3, some).error)
    assert of_influence(0.3, np.full(7, 2.0)) == around(0.3, 0.0) == (0.3, 0.0, 0.3, 0.3)


@given(st.floats(0, 1), st.floats(0, 3))
def test_an_interval_ends_where_the_figure_cannot_be(value, error):
    influence = np.array([-error, error])
    for found in (around(value, error / math.sqrt(2), 0, 1), of_influence(value, influence, 0, 1)):
        free = around(value, error / math.sqrt(2))
        assert found.error == pytest.approx(free.error)
        assert found.low == pytest.approx(max(0, free.low)) and found.high == pytest.approx(min(1, free.high))
    assert of_mean(np.array([0.0, 1.0]), 0.25, 0.75)[2:] == (0.25, 0.75)


@pytest.mark.parametrize(
    ("of", "draw"),
    [(of_mean, lambda random: random.exponential(size=200)),
     (lambda hits: of_share(hits, 150), lambda random: int(random.binomial(150, 0.1)))],
    ids=["mean", "share"],
)  # fmt: skip
def test_intervals_of_means_and_shares_hold_the_truth_as_often_as_they_say(of, draw):
    coverage, width = repeated(of, draw, 300)
    assert 0.9 <= coverage <= 0.99 and width == pytest.approx(1, abs=0.1)


def zipf(random: np.random.Generator) -> list[int]:
    weights = 1 / np.arange(1, 4001)
    return random.choice(4000, 600, p=weights / weights.sum()).tolist()


def even(random: np.random.Generator) -> list[int]:
    """Four or five come again: too few for more than a rough width."""
    return random.integers(10**6, size=3000).tolist()


@pytest.mark.parametrize(
    ("draw", "repetitions", "tolerance"), [(zipf, 300, 0.1), (even, 120, 0.3)], ids=["a few often", "all alike"]
)
def test_intervals_of_uniqueness_hold_the_truth_as_often_as_they_say(draw, repetitions, tolerance):
    coverage, width = repeated(of_uniqueness, draw, repetitions)
    assert 0.9 <= coverage <= 0.99 and width == pytest.approx(1, abs=tolerance)


def test_uniqueness_is_the_share_of_distinct_draws_and_comes_out_the_same_each_time():
    draws = list("abacadefgg")
    assert of_uniqueness(draws).value == 0.7
    assert of_uniqueness(draws) == of_uniqueness(draws)
    assert of_uniqueness(draws) == of_uniqueness([letter.upper() for letter in draws])


def test_draws_that_are_all_the_same_have_the_least_uniqueness_without_doubt():
    assert of_uniqueness(["C"] * 1000) == pytest.approx((0.001, 0, 0.001, 0.001))
    assert of_uniqueness(["C"]) == (1, 0, 1, 1)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_the_interval_of_uniqueness_holds_it_whatever_was_drawn(draws):
    found = of_uniqueness(draws)
    assert found.value == len(set(draws)) / len(draws)
    assert 0 <= found.low <= found.value <= found.high <= 1 and math.isfinite(found.error)


def test_draws_all_of_which_are_new_still_leave_a_doubt():
    found = of_uniqueness(range(1000))
    assert found.value == found.high == 1 and 0.99 < found.low < 1
