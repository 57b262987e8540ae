"""Is one generator better than another? The difference of each metric, with an interval.

A generator is one run or several that differ in their seeds. Of several the spread between them counts, which holds
that of sampling and of training (and is never taken for less than that of sampling); of one run only the standard error
of its metric, which knows nothing of training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from molvae.metrics.definitions import METRICS_THAT_DEPEND_ON_N, get_family
from molvae.metrics.intervals import LEVEL

SAME_N = 0.02  # relative difference of n up to which they may be compared


class Side(NamedTuple):
    """A metric of a generator: its mean over runs, the error of that, its degrees of freedom, runs and mean n."""

    value: float
    error: float | None
    freedom: float
    runs: int
    n: float


def compare_metrics(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare each metric that both have: second minus first, with its 95 % interval and what it means.

    Args:
        first: contents of the metrics.json of each run of a generator.
        second: the same of another one.

    Returns:
        name, better, the two values with their intervals, difference, interval, verdict ("better", "worse",
        "different", "no difference seen", "cannot tell"), and a note where the two cannot be compared.
    """
    sides = [_group_by_name(runs) for runs in (first, second)]
    names = [metric["name"] for metric in first[0]["metrics"] if all(metric["name"] in side for side in sides)]
    return [_compute_difference(name, *(side[name] for side in sides)) for name in names]


def _group_by_name(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        for metric in run["metrics"]:
            if metric["value"] is not None:
                by_name.setdefault(metric["name"], []).append(metric)
    return by_name


def pool_runs(metrics: Sequence[Mapping[str, Any]]) -> Side:
    """Pool one metric over the runs of a generator."""
    values = [metric["value"] for metric in metrics]
    n = float(np.mean([metric["n"] for metric in metrics]))
    errors = [error for metric in metrics if (error := metric.get("standard_error")) is not None]
    sampling = math.hypot(*errors) / len(errors) if len(errors) == len(metrics) else None
    if len(values) == 1:
        return Side(values[0], sampling, math.inf, 1, n)
    between = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    if sampling is not None and sampling > between:
        return Side(float(np.mean(values)), sampling, math.inf, len(values), n)
    return Side(float(np.mean(values)), between, len(values) - 1, len(values), n)


def compute_interval(value: float, error: float | None, freedom: float) -> list[float] | None:
    """Compute the 95 % interval of a metric with that error; None where the error is not known."""
    if error is None:
        return None
    spread = stats.t(freedom) if math.isfinite(freedom) else stats.norm
    half = float(spread.ppf((1 + LEVEL) / 2)) * error
    return [value - half, value + half]


def _compute_difference(
    name: str, first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    a, b = pool_runs(first), pool_runs(second)
    difference = b.value - a.value
    interval = None
    if a.error is not None and b.error is not None:
        error = math.hypot(a.error, b.error)
        # Welch and Satterthwaite: an error known from one run's samples has infinite degrees of freedom
        sides = ((a.error, a.freedom), (b.error, b.freedom))
        parts = [part**4 / freedom for part, freedom in sides if math.isfinite(freedom)]
        freedom = error**4 / sum(parts) if parts and sum(parts) else math.inf
        interval = compute_interval(difference, error, freedom)
    references = {metric["reference"] for metric in (*first, *second)}
    note = ""
    if len(references) > 1:
        note = f"compared with different references: {' and '.join(sorted(map(str, references)))}"
    elif get_family(name) in METRICS_THAT_DEPEND_ON_N and abs(a.n / b.n - 1) > SAME_N:
        note = f"depends on n, and n differs: {a.n:.0f} and {b.n:.0f}"
    return {
        "name": name, "better": first[0]["better"], "difference": difference, "interval": interval,
        "verdict": "cannot tell" if note else _decide_verdict(interval, first[0]["better"]), "note": note,
        "sides": [
            {"value": side.value, "interval": _get_interval(side, metrics), "runs": side.runs, "n": side.n}
            for side, metrics in ((a, first), (b, second))
        ],
    }  # fmt: skip


def _get_interval(side: Side, metrics: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Take the interval of a single run, which respects the metric's range, or compute that of the mean of several."""
    return metrics[0].get("interval") if side.runs == 1 else compute_interval(side.value, side.error, side.freedom)


def _decide_verdict(interval: list[float] | None, better: str) -> str:
    if interval is None:
        return "cannot tell"
    low, high = interval
    if low <= 0 <= high:
        return "no difference seen"
    if better == "none":
        return "different"
    return "better" if (low > 0) == (better == "higher") else "worse"
