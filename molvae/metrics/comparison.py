"""Is one generator better than another? The difference of each figure, with an interval.

A generator is one run or several that differ in their seeds. Of several the spread between them counts, which holds
that of sampling and of training (and is never taken for less than that of sampling); of one run only the standard error
of its figure, which knows nothing of training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from molvae.metrics.intervals import LEVEL

# kinds of figures that move with n
GROWS_WITH_N = ("FCD", "FCD_novel", "FCD_score", "Scaf", "unique@10000", "uniqueness", "KL", "KL_score")
SAME_N = 0.02  # relative difference of n up to which they may be compared


class Side(NamedTuple):
    """A figure of a generator: its mean over runs, the error of that, its degrees of freedom, and what is behind it."""

    value: float
    error: float | None
    freedom: float
    runs: int
    n: float


def compare(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each figure that both have: `other` less `one`, with its 95 % interval and what it means.

    Args:
        one, other: contents of the metrics.json of each run.
    Returns:
        name, better, the two values with their intervals, difference, interval, verdict ("better", "worse",
        "different", "no difference seen", "cannot tell"), and a note where the two cannot be compared.
    """
    sides = [_by_name(runs) for runs in (one, other)]
    names = [metric["name"] for metric in one[0]["metrics"] if all(metric["name"] in side for side in sides)]
    return [_difference(name, *(side[name] for side in sides)) for name in names]


def _by_name(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        for metric in run["metrics"]:
            if metric["value"] is not None:
                found.setdefault(metric["name"], []).append(metric)
    return found


def side_of(metrics: Sequence[Mapping[str, Any]]) -> Side:
    """One figure over the runs of a generator."""
    values = [metric["value"] for metric in metrics]
    n = float(np.mean([metric["n"] for metric in metrics]))
    errors = [metric.get("standard_error") for metric in metrics]
    sampling = None if None in errors else math.hypot(*errors) / len(errors)
    if len(values) == 1:
        return Side(values[0], sampling, math.inf, 1, n)
    between = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    if sampling is not None and sampling > between:
        return Side(float(np.mean(values)), sampling, math.inf, len(values), n)
    return Side(float(np.mean(values)), between, len(values) - 1, len(values), n)


def interval_of(value: float, error: float | None, freedom: float) -> list[float] | None:
    """The 95 % interval of a figure with that error; None where the error is not known."""
    if error is None:
        return None
    spread = stats.t(freedom) if math.isfinite(freedom) else stats.norm
    half = float(spread.ppf((1 + LEVEL) / 2)) * error
    return [value - half, value + half]


def _difference(name: str, one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    a, b = side_of(one), side_of(other)
    difference = b.value - a.value
    interval = None
    if a.error is not None and b.error is not None:
        error = math.hypot(a.error, b.error)
        # Welch and Satterthwaite: an error known from one run's samples has no end of degrees of freedom
        parts = [(side.error**4 / side.freedom) for side in (a, b) if math.isfinite(side.freedom)]
        freedom = error**4 / sum(parts) if parts and sum(parts) else math.inf
        interval = interval_of(difference, error, freedom)
    references = {metric["reference"] for metric in (*one, *other)}
    note = ""
    if len(references) > 1:
        note = f"held against different references: {' and '.join(sorted(map(str, references)))}"
    elif name.removeprefix("GuacaMol/").split("/")[0] in GROWS_WITH_N and abs(a.n / b.n - 1) > SAME_N:
        note = f"moves with n, and n differs: {a.n:.0f} and {b.n:.0f}"
    return {
        "name": name, "better": one[0]["better"], "difference": difference, "interval": interval,
        "verdict": "cannot tell" if note else _verdict(interval, one[0]["better"]), "note": note,
        "sides": [
            {"value": side.value, "interval": _own_interval(side, metrics), "runs": side.runs, "n": side.n}
            for side, metrics in ((a, one), (b, other))
        ],
    }  # fmt: skip


def _own_interval(side: Side, metrics: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """That of the one run, which knows where the figure cannot be, or of the mean of several."""
    return metrics[0].get("interval") if side.runs == 1 else interval_of(side.value, side.error, side.freedom)


def _verdict(interval: list[float] | None, better: str) -> str:
    if interval is None:
        return "cannot tell"
    low, high = interval
    if low <= 0 <= high:
        return "no difference seen"
    if better == "none":
        return "different"
    return "better" if (low > 0) == (better == "higher") else "worse"
