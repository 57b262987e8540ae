"""Every metric of a set of samples under its published name, with n, interval and what it is compared with.

A metric whose n is too small to mean anything is not computed; it says how many samples it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from typing import NamedTuple, TypedDict

import numpy as np
import pandas as pd

from molvae.chemistry.descriptors import compute_guacamol_descriptors, compute_skeletons, reject_skeleton, remove_stereo
from molvae.chemistry.structural_flags import LARGE_RING_ATOMS
from molvae.metrics import fcd, guacamol, moses
from molvae.metrics.definitions import MetricDefinition, get_definition, get_family
from molvae.metrics.intervals import Estimate, estimate_fraction, estimate_mean, estimate_uniqueness
from molvae.metrics.reference_sets import PROPERTY_COLUMNS, ReferenceSet, TrainingSet, is_in, load_or_compute
from molvae.metrics.sample_set import SampleSet
from molvae.runtime.workers import Workers, map_in_order

TASK_ROWS = 500


class Metric(NamedTuple):
    """One metric to compute: a name, the number of samples behind it, and what it is compared with (None: nothing)."""

    name: str
    n: int
    compute: Callable[[], Estimate]
    reference: str | None = None

    @property
    def family(self) -> str:
        """Its name without suite and reference."""
        return get_family(self.name)

    @property
    def definition(self) -> MetricDefinition:
        """What is true of all metrics of its name."""
        return get_definition(self.name)


class MetricEntry(TypedDict):
    """One metric as it stands in metrics.json: a value with all that is needed to read it."""

    name: str
    value: float | None
    interval: list[float | None] | None
    standard_error: float | None
    n: int
    better: str
    reference: str | None
    implementation: str
    source: str
    description: str
    baselines: dict[str, float | None]


def build_moses_metrics(
    samples: SampleSet, references: Mapping[str, ReferenceSet], training: TrainingSet | None
) -> list[Metric]:
    """Build the metrics of MOSES. The property distances are taken to the first reference, as its code does."""
    valid, n = samples.valid, len(samples.valid)
    metrics = [Metric("valid", len(samples.rows), lambda: estimate_fraction(n, len(samples.rows)))]
    for first in (1000, 10_000):
        draws = valid["canonical"].head(first).tolist()
        metrics.append(Metric(f"unique@{first}", len(draws), partial(estimate_uniqueness, draws)))
    for name, reference in references.items():
        metrics += [
            Metric(f"FCD/{name}", n, partial(_compute_fcd, samples, reference), reference.description),
            Metric(f"SNN/{name}", n, partial(_compute_snn, samples, reference), reference.description),
            Metric(f"Frag/{name}", n, partial(_compute_frag, samples, reference), reference.description),
            Metric(f"Scaf/{name}", n, partial(_compute_scaf, samples, reference), reference.description),
        ]
    metrics += [
        Metric("IntDiv", n, lambda: samples.diversities[0]),
        Metric("IntDiv2", n, lambda: samples.diversities[1]),
        _build_fraction("Filters", valid, lambda rows: rows["passes_filters"]),
    ]
    for reference in list(references.values())[:1]:
        metrics += [
            Metric(
                name, n, partial(_compute_wasserstein, valid[column], reference.properties[name]), reference.description
            )
            for name, column in PROPERTY_COLUMNS.items()
        ]
    if training is not None:
        metrics.append(_build_novelty("Novelty", samples.distinct, training.given, training))
    return metrics


def build_guacamol_metrics(samples: SampleSet, training: TrainingSet) -> list[Metric]:
    """Build the metrics of GuacaMol; their names begin with "GuacaMol/"."""
    first = samples.rows["is_valid"].head(guacamol.MAX_SAMPLES)
    flat = dict(zip(samples.distinct, samples.distinct_without_stereo, strict=True))
    draws = [flat[smiles] for smiles in samples.valid["canonical"].head(guacamol.MAX_SAMPLES)]
    distinct = list(dict.fromkeys(samples.distinct_without_stereo[: guacamol.MAX_SAMPLES]))
    n = min(len(samples.valid), guacamol.MAX_SAMPLES)
    return [
        Metric("GuacaMol/validity", len(first), lambda: estimate_fraction(int(first.sum()), len(first))),
        Metric("GuacaMol/uniqueness", len(draws), lambda: estimate_uniqueness(draws)),
        _build_novelty("GuacaMol/novelty", distinct, training.without_stereo, training),
        *_build_divergences(distinct, training, samples),
        Metric(
            "GuacaMol/FCD_score", n, lambda: _compute_fcd_score(samples.activations[:n], training, samples.device),
            training.description,
        ),
    ]  # fmt: skip


def build_further_metrics(
    samples: SampleSet, references: Mapping[str, ReferenceSet], training: TrainingSet | None
) -> list[Metric]:
    """Build the metrics that neither suite has: memorisation, round trips, implausible structures."""
    valid = samples.valid
    metrics = [] if training is None else _build_memorisation_metrics(samples, references, training)
    survival = samples.rows["token_survival"].dropna().to_numpy(float)  # of those whose string is known
    if len(survival):
        metrics.append(Metric("token_survival", len(survival), lambda: estimate_mean(survival, 0, 1)))
    if samples.round_trip_rate is not None:
        metrics.append(Metric("round_trip_rate", len(samples.rows), lambda: Estimate(samples.round_trip_rate)))
    return [
        *metrics,
        _build_fraction("radicals", valid, lambda rows: rows["radical_electrons"] > 0),
        _build_fraction("large_rings", valid, lambda rows: rows["largest_ring"] > LARGE_RING_ATOMS),
        _build_fraction("charged", valid, lambda rows: rows["charge"] != 0),
        _build_fraction("structural_flags", valid, lambda rows: rows["structural_flags"] != ""),
        _build_fraction("MCF", valid, lambda rows: ~rows["alerts"].astype(str).str.startswith("MCF")),
        _build_fraction("PAINS", valid, lambda rows: ~rows["alerts"].astype(str).str.contains("PAINS")),
    ]


def _build_memorisation_metrics(
    samples: SampleSet, references: Mapping[str, ReferenceSet], training: TrainingSet
) -> list[Metric]:
    """Build the metrics that separate memorised molecules from new ones."""
    valid = samples.valid
    is_novel = ~is_in(valid["canonical"].tolist(), training.canonical)
    return [
        _build_novelty("Novelty_canonical", samples.distinct, training.canonical, training),
        _build_novelty("Novelty_no_stereo", samples.distinct_without_stereo, training.without_stereo, training),
        *_build_skeleton_novelty(samples, training),
        Metric(
            "SNN/Train", len(valid), partial(_compute_snn, samples, training),
            f"{len(training.fingerprints)} of {training.description}",
        ),
        *(
            Metric(
                f"FCD_novel/{name}", int(is_novel.sum()), partial(_compute_fcd, samples, reference, is_novel),
                reference.description,
            )
            for name, reference in references.items()
        ),
    ]  # fmt: skip


def compute_metrics(metrics: list[Metric]) -> tuple[dict[str, Estimate], dict[str, str]]:
    """Compute metrics: the estimates by name, and for those that could not be computed the reason."""
    estimates, refused = {}, {}
    for metric in metrics:
        min_n = metric.definition.min_n
        if metric.n < min_n:
            refused[metric.name] = f"needs {min_n} molecules, there are {metric.n}"
        else:
            estimate = metric.compute()
            if estimate.value is None or not np.isfinite(estimate.value):
                refused[metric.name] = metric.definition.undefined
            else:
                estimates[metric.name] = estimate
    return estimates, refused


def make_entry(metric: Metric, estimate: Estimate, baselines: Mapping[str, float | None]) -> MetricEntry:
    """Make the entry of a metric in metrics.json."""
    definition = metric.definition
    interval = None if estimate.low is None else [_to_json_number(estimate.low), _to_json_number(estimate.high)]
    return MetricEntry(
        name=metric.name,
        value=_to_json_number(estimate.value),
        interval=interval,
        standard_error=_to_json_number(estimate.error),
        n=metric.n,
        better=definition.better,
        reference=metric.reference,
        implementation=definition.implementation,
        source=definition.source,
        description=definition.description,
        baselines={name: _to_json_number(value) for name, value in baselines.items()},
    )


def _to_json_number(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _compute_fcd(samples: SampleSet, reference: ReferenceSet, rows: np.ndarray | slice = slice(None)) -> Estimate:
    return fcd.estimate_fcd(samples.activations[rows], reference.chemnet)


def _compute_snn(samples: SampleSet, reference: ReferenceSet | TrainingSet) -> Estimate:
    return moses.compute_snn(samples.fingerprints, reference.fingerprints, samples.device)


def _compute_frag(samples: SampleSet, reference: ReferenceSet) -> Estimate:
    return moses.compute_cosine(samples.fragments, reference.fragments)


def _compute_scaf(samples: SampleSet, reference: ReferenceSet) -> Estimate:
    return moses.compute_cosine(samples.scaffolds, reference.scaffolds)


def _compute_wasserstein(values: pd.Series, reference: np.ndarray) -> Estimate:
    return moses.compute_wasserstein(values.to_numpy(float), reference)


def _build_fraction(name: str, rows: pd.DataFrame, has_it: Callable[[pd.DataFrame], pd.Series]) -> Metric:
    return Metric(name, len(rows), lambda: estimate_fraction(int(has_it(rows).sum()), len(rows)))


def _build_novelty(name: str, distinct: list[str], hashes: np.ndarray, training: TrainingSet) -> Metric:
    return Metric(name, len(distinct), lambda: _compute_novelty(distinct, hashes), training.description)


def _build_skeleton_novelty(samples: SampleSet, training: TrainingSet) -> list[Metric]:
    """Build the novelty of InChIKey skeletons, if those of the training molecules were asked for."""
    if training.skeletons is None:
        return []
    compute = partial(_compute_skeleton_novelty, samples, training.skeletons, training.canonical)
    return [Metric("Novelty_skeleton", len(samples.distinct), compute, training.description)]


def _compute_skeleton_novelty(samples: SampleSet, training_skeletons: np.ndarray, training: np.ndarray) -> Estimate:
    is_known = is_in(samples.distinct, training)  # and so is then the skeleton
    unknown = [smiles for smiles, known in zip(samples.distinct, is_known, strict=True) if not known]
    tasks = [(unknown[start : start + TASK_ROWS],) for start in range(0, len(unknown), TASK_ROWS)]
    parts = map_in_order(compute_skeletons, tasks, samples.workers, reject_skeleton)
    skeletons = [skeleton for part in parts for skeleton in part]
    return estimate_fraction(int((~is_in(skeletons, training_skeletons)).sum()), len(samples.distinct))


def _compute_novelty(distinct: list[str], hashes: np.ndarray) -> Estimate:
    return estimate_fraction(int((~is_in(distinct, hashes)).sum()), len(distinct))


def _build_divergences(distinct: list[str], training: TrainingSet, samples: SampleSet) -> list[Metric]:
    names = (*guacamol.CONTINUOUS, *guacamol.DISCRETE, "internal_similarity")

    @cache
    def compute_all() -> tuple[Estimate, dict[str, Estimate]]:
        n = min(guacamol.MAX_SAMPLES, len(distinct))
        training_values = _compute_training_values(training, n, samples.workers, samples.device)
        return guacamol.compute_kl_divergences(
            _compute_values(distinct, samples.workers, samples.device), training_values
        )

    def compute_one(name: str) -> Estimate:
        return compute_all()[1][name]

    parts = [
        Metric(f"GuacaMol/KL/{name}", len(distinct), partial(compute_one, name), training.description) for name in names
    ]
    return [Metric("GuacaMol/KL_score", len(distinct), lambda: compute_all()[0], training.description), *parts]


@lru_cache(maxsize=4)
def _compute_training_values(
    training: TrainingSet, n: int, workers: int | Workers, device: str
) -> dict[str, np.ndarray]:
    def compute() -> dict[str, np.ndarray]:
        return _compute_values(list(dict.fromkeys(map(remove_stereo, training.smiles[:n]))), workers, device)

    return load_or_compute(training, "guacamol", [n, device], compute)


def _compute_values(smiles: list[str], workers: int | Workers, device: str) -> dict[str, np.ndarray]:
    tasks = [smiles[start : start + TASK_ROWS] for start in range(0, len(smiles), TASK_ROWS)]
    parts = list(map_in_order(compute_guacamol_descriptors, tasks, workers))
    values = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    fingerprints = np.concatenate([part[1] for part in parts])
    return {**values, "internal_similarity": guacamol.compute_internal_similarity(fingerprints, device)}


def _compute_fcd_score(activations: np.ndarray, training: TrainingSet, device: str) -> Estimate:
    distance = fcd.estimate_fcd(activations, _compute_training_statistics(training, len(activations), device))
    if distance.value is None or distance.error is None or distance.low is None or distance.high is None:
        return Estimate(None)
    score = float(np.exp(-distance.value / 5))
    low, high = (float(np.exp(-bound / 5)) for bound in (distance.high, distance.low))
    return Estimate(score, score / 5 * distance.error, low, high)


@lru_cache(maxsize=4)
def _compute_training_statistics(training: TrainingSet, n: int, device: str) -> fcd.Statistics:
    def compute() -> dict[str, np.ndarray]:
        statistics = fcd.compute_statistics(training.smiles[:n], device=device)
        return {"mu": statistics.mu, "sigma": statistics.sigma}

    return fcd.Statistics(**load_or_compute(training, "chemnet", [n, device], compute), n=n)
