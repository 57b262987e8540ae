"""All metrics of a set of samples beside their baselines, as metrics.json has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypedDict

import numpy as np

from molvae.metrics import moses
from molvae.metrics.definitions import BASELINE_TITLES, HELD_OUT, METRICS_THAT_DEPEND_ON_N
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

MIN_BASELINE_FRACTION = 0.8  # of as many molecules: FCD's excess goes by 1/n


class Baseline(NamedTuple):
    """Other molecules to compare with; `only` names the families of metrics that are computed for them."""

    name: str
    samples: SampleSet
    only: tuple[str, ...] = ()


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
        baselines: other sets of molecules.
        seed: of random draws.
    """
    metrics = build_metrics(samples, references, training)
    estimates, refused = compute_metrics(metrics)
    baseline_values: dict[str, dict[str, float | None]] = {name: {} for name in estimates}
    for name, others, only in baselines:
        shared = [
            metric
            for metric in build_metrics(others, references, training)
            if metric.name in estimates and (not only or metric.family in only)
        ]
        if 0 < len(others.valid) < MIN_BASELINE_FRACTION * len(samples.valid):
            shared = [metric for metric in shared if not metric.definition.depends_on_n]
            refused[f"{', '.join(METRICS_THAT_DEPEND_ON_N)} of {BASELINE_TITLES.get(name, name)}"] = (
                f"depend on n: {len(others.valid)} molecules for {len(samples.valid)} samples"
            )
        with skip_resampling():
            for metric_name, estimate in compute_metrics(shared)[0].items():
                baseline_values[metric_name][name] = estimate.value
    if training is not None and "SNN/Train" in baseline_values and references:
        held_out = _compute_held_out_snn(next(iter(references.values())), training, samples, seed)
        baseline_values["SNN/Train"][HELD_OUT] = held_out
    entries = [
        make_entry(metric, estimates[metric.name], baseline_values[metric.name])
        for metric in metrics
        if metric.name in estimates
    ]
    return Evaluation(metrics=entries, not_computed=refused)


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
