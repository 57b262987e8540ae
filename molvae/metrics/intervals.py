"""How far a figure would move if the same generator were sampled again.

An interval says where the mean figure of further samples **of as many molecules** would lie: the value and 1.96
standard errors. It knows nothing of another training seed. The standard error is the spread of the figure over samples
drawn again from the samples (the bootstrap; Efron 1979, doi:10.1214/aos/1176344552), or, where that takes long and the
figure is smooth, what the bootstrap's tends to: the spread over √n of what one sample more or less does to it, its
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

from molvae.runtime.seeds import derive

LEVEL = 0.95
Z = 1.959964  # of the normal distribution, for LEVEL
RESAMPLES = 100  # for a standard error right to a fourteenth
_RESAMPLES = ContextVar("resamples", default=RESAMPLES)


class Estimate(NamedTuple):
    """A figure, its standard error and its 95 % interval; the last two are None where they would mean nothing."""

    value: float | None
    error: float | None = None
    low: float | None = None
    high: float | None = None


def around(value: float, error: float, low: float = -math.inf, high: float = math.inf) -> Estimate:
    """The interval of a figure with a normal error, cut where the figure cannot be."""
    return Estimate(value, error, max(low, value - Z * error), min(high, value + Z * error))


def of_influence(value: float, influence: np.ndarray, low: float = -math.inf, high: float = math.inf) -> Estimate:
    """The interval of a figure from the (n,) influences of its samples."""
    return around(value, float(np.std(influence)) / math.sqrt(len(influence)), low, high)


def of_resamples(value: float, found: Sequence[float], low: float = -math.inf, high: float = math.inf) -> Estimate:
    """The interval of a figure from what it is for resamples; nothing where the figure is not a number."""
    if not math.isfinite(value):
        return Estimate(None)
    return around(value, float(np.nanstd(found)) if len(found) else 0.0, low, high)


@contextmanager
def values_only() -> Iterator[None]:
    """In this block no resample is drawn, so that the errors that need them are 0: for figures shown without one."""
    token = _RESAMPLES.set(0)
    try:
        yield
    finally:
        _RESAMPLES.reset(token)


def resamples(n: int) -> Iterator[np.ndarray]:
    """How often each of n samples is drawn when n are drawn from them again, (n,) float64; the same for all figures."""
    random = np.random.default_rng(derive(0, "bootstrap"))
    for _ in range(_RESAMPLES.get()):
        yield np.bincount(random.integers(n, size=n), minlength=n).astype(float)


def of_mean(values: np.ndarray, low: float = -math.inf, high: float = math.inf) -> Estimate:
    """The interval of a mean."""
    return of_influence(float(np.mean(values)), values, low, high)


def of_share(hits: int, n: int) -> Estimate:
    """The interval of a share of n (Wilson 1927, doi:10.2307/2276774): right for 0 and n hits, too."""
    share = hits / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return Estimate(share, half / Z, max(0.0, centre - half), min(1.0, centre + half))


def of_uniqueness(draws: Sequence[Hashable]) -> Estimate:
    """The interval of the share of distinct ones among all draws.

    Drawing again from the draws would make duplicates that the generator does not; so the resamples come from an
    estimate of the distribution in which what was never seen has its place (Chao & Lee 1992; Colwell et al. 2012,
    doi:10.1093/jpe/rtr044).
    """
    n = len(draws)
    counts = np.array(list(Counter(draws).values()))
    value = len(counts) / n
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    unseen = (n - 1) / n * (once**2 / (2 * twice) if twice else once * (once - 1) / 2)
    unseen = max(1, math.ceil(unseen))
    # probability of what was not seen
    missing = once / n * (n - 1) * once / ((n - 1) * once + 2 * max(twice, 1)) if once and n > 1 else 0.0
    share = counts / n
    lost = share * (1 - share) ** n
    seen = (share - lost * missing / lost.sum()).clip(min=0) if missing else share
    random = np.random.default_rng(derive(0, "uniqueness"))
    found = []
    for _ in range(_RESAMPLES.get()):
        new = random.binomial(n, missing)
        known = random.multinomial(n - new, seen / seen.sum())
        found.append((np.count_nonzero(known) + len(np.unique(random.integers(unseen, size=new)))) / n)
    return of_resamples(value, found, 0, 1)
