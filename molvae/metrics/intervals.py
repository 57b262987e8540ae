"""How far a metric would move if the same generator were sampled again.

An interval says where the mean metric of further samples **of as many molecules** would lie: the value and 1.96
standard errors. It knows nothing of another training seed. The standard error is the spread of the metric over samples
drawn again from the samples (the bootstrap; Efron 1979, doi:10.1214/aos/1176344552), or, where that takes long and the
metric is smooth, the limit of the bootstrap's: the spread over √n of what one sample more or less does to it, its
influence (the infinitesimal jackknife; Efron 1982, doi:10.1137/1.9781611970319). Both come out the same each time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

from molvae.runtime.seeds import derive_seed

LEVEL = 0.95
Z = 1.959964  # of the normal distribution, for LEVEL
RESAMPLES = 100  # for a standard error accurate to about 7 %
_RESAMPLES = ContextVar("resamples", default=RESAMPLES)


class Estimate(NamedTuple):
    """A metric, its standard error and its 95 % interval; the last two are None where they would mean nothing."""

    value: float | None
    error: float | None = None
    low: float | None = None
    high: float | None = None


def estimate_normal(value: float, error: float, low: float = -math.inf, high: float = math.inf) -> Estimate:
    """Estimate a metric with a normal error.

    Args:
        value: of the metric.
        error: its standard error.
        low: least value that the metric can have; the interval is cut there.
        high: largest value, likewise.

    >>> estimate_normal(0.9, 0.1, high=1.0).high
    1.0
    """
    return _make_estimate(value, error, max(low, value - Z * error), min(high, value + Z * error))


def _make_estimate(value: float, error: float, low: float, high: float) -> Estimate:
    """Make an estimate whose interval holds its value, whatever rounding did to the ends."""
    return Estimate(value, error, min(low, value), max(high, value))


def estimate_from_influence(
    value: float, influence: np.ndarray, low: float = -math.inf, high: float = math.inf
) -> Estimate:
    """Estimate a metric from the (n,) influences of its samples.

    Args:
        value: of the metric.
        influence: (n,) what a sample more does to it, times n.
        low: least value that the metric can have.
        high: largest value that it can have.
    """
    return estimate_normal(value, float(np.std(influence)) / math.sqrt(len(influence)), low, high)


def estimate_from_resamples(
    value: float, resampled: Sequence[float], low: float = -math.inf, high: float = math.inf
) -> Estimate:
    """Estimate a metric from its values for resamples; nothing where the metric is not a number.

    Args:
        value: of the metric.
        resampled: its value for each resample.
        low: least value that the metric can have.
        high: largest value that it can have.
    """
    if not math.isfinite(value):
        return Estimate(None)
    return estimate_normal(value, float(np.nanstd(resampled)) if len(resampled) else 0.0, low, high)


@contextmanager
def skip_resampling() -> Iterator[None]:
    """Draw no resample in this block, so that the errors that need them are 0: for metrics shown without one."""
    token = _RESAMPLES.set(0)
    try:
        yield
    finally:
        _RESAMPLES.reset(token)


def iter_resamples(n: int) -> Iterator[np.ndarray]:
    """Yield how often each of n samples is drawn when n are drawn from them again, (n,) float64; the same each time."""
    random = np.random.default_rng(derive_seed(0, "bootstrap"))
    for _ in range(_RESAMPLES.get()):
        yield np.bincount(random.integers(n, size=n), minlength=n).astype(float)


def estimate_mean(values: np.ndarray, low: float = -math.inf, high: float = math.inf) -> Estimate:
    """Estimate a mean, whose values lie between `low` and `high`."""
    return estimate_from_influence(float(np.mean(values)), values, low, high)


def estimate_fraction(hits: int, n: int) -> Estimate:
    """Estimate a fraction of n (Wilson 1927, doi:10.2307/2276774): right for 0 and n hits, too."""
    fraction = hits / n
    centre = (fraction + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(fraction * (1 - fraction) / n + Z**2 / (4 * n**2))
    return _make_estimate(fraction, half / Z, max(0.0, centre - half), min(1.0, centre + half))


def estimate_uniqueness(draws: Sequence[Hashable]) -> Estimate:
    """Estimate the fraction of distinct ones among all draws.

    Drawing again from the draws would make duplicates that the generator does not; so the resamples come from an
    estimate of the distribution in which what was never seen has its place (Chao & Lee 1992; Colwell et al. 2012,
    doi:10.1093/jpe/rtr044).
    """
    n = len(draws)
    counts = np.array(list(Counter(draws).values()))
    unseen, unseen_probability = _estimate_unseen(counts, n)
    fraction = counts / n
    lost = fraction * (1 - fraction) ** n
    seen = (fraction - lost * unseen_probability / lost.sum()).clip(min=0) if unseen_probability else fraction
    random = np.random.default_rng(derive_seed(0, "uniqueness"))
    resampled = []
    for _ in range(_RESAMPLES.get()):
        n_new = random.binomial(n, unseen_probability)
        seen_counts = random.multinomial(n - n_new, seen / seen.sum())
        distinct_new = len(np.unique(random.integers(unseen, size=n_new)))
        resampled.append((np.count_nonzero(seen_counts) + distinct_new) / n)
    return estimate_from_resamples(len(counts) / n, resampled, 0, 1)


def _estimate_unseen(counts: np.ndarray, n: int) -> tuple[int, float]:
    """How many different ones were not seen in n draws, and the probability of seeing one of them (Chao1)."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    unseen = (n - 1) / n * (once**2 / (2 * twice) if twice else once * (once - 1) / 2)
    probability = 0.0
    if once and n > 1:
        probability = once / n * (n - 1) * once / ((n - 1) * once + 2 * max(twice, 1))
    return max(1, math.ceil(unseen)), probability
