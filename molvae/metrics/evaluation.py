"""All metrics of a set of samples beside their baselines, as metrics.json has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypedDict

import numpy as np

from molvae.metrics import moses
from molvae.metrics.definitions import BASELINE_TITLES, HELD_OUT, METRICS_THAT_DEPEND_ON_N, get_definition
from molvae.metrics.intervals import skip_resampling
from molvae.metrics.reference_sets import ReferenceSet, TrainingSet
from molvae.metrics.sample_set import SampleSet
from molvae.metrics.suite import (
    Metric,
    MetricEntry,
    build_further_metrics,
    build_guacamol_metrics,
    build_moses_metrics,
    compute_metrics,
    make_entry,
)
from molvae.runtime.seeds import derive_seed

WITHOUT_SKELETONS = "takes 0.3 ms a training molecule; validate.skeletons or --skeletons asks for it"
MIN_BASELINE_FRACTION = 0.8  # of as many molecules: FCD's excess goes by 1/n


class Baseline(NamedTuple):
    """The metrics of other molecules to compare with.

    Attributes:
        name: what they are, a key of BASELINE_TITLES.
        n: how many of them are valid.
        values: of each metric by name; None where it is undefined.
    """

    name: str
    n: int
    values: Mapping[str, float | None]


class Evaluation(TypedDict):
    """The entries of all metrics, and name -> reason of those that were not computed."""

    metrics: list[MetricEntry]
    not_computed: dict[str, str]


def evaluate_samples(
    samples: SampleSet,
    references: Mapping[str, ReferenceSet],
    training: TrainingSet | None,
    baselines: Iterable[Baseline] = (),
    *,
    seed: int = 0,
) -> Evaluation:
    """Compute every metric that has enough molecules, with its interval and its baselines.

    A baseline of many fewer molecules than there are samples has no metric that depends on n: training molecules at a
    tenth of them would make any model look as good.

    Args:
        samples: what to evaluate.
        references: what they are compared with, by name.
        training: the molecules the generator was trained on; None where they are not known.
        baselines: metrics of other molecules.
        seed: of random draws.
    """
    metrics = build_metrics(samples, references, training)
    estimates, refused = compute_metrics(metrics)
    baseline_values: dict[str, dict[str, float | None]] = {name: {} for name in estimates}
    for name, n, values in baselines:
        is_smaller = 0 < n < MIN_BASELINE_FRACTION * len(samples.valid)
        if is_smaller:
            refused[f"{', '.join(METRICS_THAT_DEPEND_ON_N)} of {BASELINE_TITLES.get(name, name)}"] = (
                f"depend on n: {n} molecules for {len(samples.valid)} samples"
            )
        for metric_name in estimates:
            if metric_name in values and not (is_smaller and get_definition(metric_name).depends_on_n):
                baseline_values[metric_name][name] = values[metric_name]
    if training is not None and training.skeletons is None:
        refused["Novelty_skeleton"] = WITHOUT_SKELETONS
    if training is not None and "SNN/Train" in baseline_values and references:
        held_out = _compute_held_out_snn(next(iter(references.values())), training, samples, seed)
        baseline_values["SNN/Train"][HELD_OUT] = held_out
    entries = [
        make_entry(metric, estimates[metric.name], baseline_values[metric.name])
        for metric in metrics
        if metric.name in estimates
    ]
    return Evaluation(metrics=entries, not_computed=refused)


def score_baseline(
    name: str,
    molecules: SampleSet,
    references: Mapping[str, ReferenceSet],
    training: TrainingSet | None,
    only: tuple[str, ...] = (),
) -> Baseline:
    """Compute the metrics of molecules to compare with, without intervals.

    Args:
        name: what they are.
        molecules: as many as there are samples.
        references: as in `evaluate_samples`.
        training: as in `evaluate_samples`.
        only: the families of metrics that are computed; empty: all.
    """
    metrics = build_metrics(molecules, references, training)
    with skip_resampling():
        estimates, _ = compute_metrics([metric for metric in metrics if not only or metric.family in only])
    return Baseline(name, len(molecules.valid), {key: estimate.value for key, estimate in estimates.items()})


def build_metrics(
    samples: SampleSet, references: Mapping[str, ReferenceSet], training: TrainingSet | None
) -> list[Metric]:
    """Build the metrics of MOSES, those of GuacaMol, and ours."""
    return [
        *build_moses_metrics(samples, references, training),
        *build_further_metrics(samples, references, training),
        *(build_guacamol_metrics(samples, training) if training is not None else []),
    ]


def _compute_held_out_snn(
    reference: ReferenceSet, training: TrainingSet, samples: SampleSet, seed: int
) -> float | None:
    """How near held-out molecules are to the training set: samples that are nearer were memorised."""
    random = np.random.default_rng(derive_seed(seed, "held-out molecules"))
    rows = random.choice(reference.n, min(reference.n, len(samples.valid)), replace=False)
    return moses.compute_snn(reference.fingerprints[np.sort(rows)], training.fingerprints, samples.device).value
