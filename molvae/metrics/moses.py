"""The metrics of MOSES, each as its published code (molsets 0.3.1, `moses/metrics`) defines it, with an interval.

Source: Polykovskiy et al. 2020 (doi:10.3389/fphar.2020.565644). All take the valid samples, duplicates kept, unless a
metric says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import wasserstein_distance

from molvae.metrics import tanimoto
from molvae.metrics.intervals import (
    Estimate,
    estimate_from_influence,
    estimate_from_resamples,
    estimate_mean,
    iter_resamples,
)


def compute_snn(fingerprints: np.ndarray, references: np.ndarray, device: str = "cpu") -> Estimate:
    """Compute SNN: mean Tanimoto similarity to the nearest reference; Morgan fingerprints, radius 2, 1024 bits."""
    distinct, places, _ = _find_distinct(fingerprints)
    return estimate_mean(tanimoto.compute_nearest_similarity(distinct, references, device=device)[places], 0, 1)


def compute_cosine(samples: Sequence[Sequence[str]], reference: Mapping[str, int]) -> Estimate:
    """Compute the cosine of the counts of all samples together and those of the reference: Frag and Scaf.

    Args:
        samples: what each sample holds, as often as it holds it.
        reference: name -> how often the reference holds it.
    """
    numbers: dict[str, int] = {}
    held = [numbers.setdefault(name, len(numbers)) for names in samples for name in names]
    length = math.sqrt(sum(count**2 for count in reference.values()))
    if not held or not length:
        return Estimate(None)
    ends = np.cumsum([0, *map(len, samples)])
    counts = csr_array((np.ones(len(held)), held, ends), shape=(len(samples), len(numbers))).T
    direction = np.array([reference.get(name, 0) for name in numbers]) / length

    def to_reference(weights: np.ndarray) -> float:
        total = counts @ weights
        size = np.linalg.norm(total)
        return float(total @ direction / size) if size else math.nan

    value = to_reference(np.ones(len(samples)))
    return estimate_from_resamples(value, [to_reference(weights) for weights in iter_resamples(len(samples))], 0, 1)


def compute_internal_diversities(fingerprints: np.ndarray, device: str = "cpu") -> tuple[Estimate, Estimate]:
    """Compute IntDiv and IntDiv2: 1 − the mean similarity of all pairs, each with itself among them.

    IntDiv2 is 1 − the mean over samples of the root of a sample's mean squared similarity, which is what the
    published code does; its paper has the root of the mean over all pairs.
    """
    distinct, places, counts = _find_distinct(fingerprints)
    means = tanimoto.compute_mean_similarities(distinct, counts, device=device)
    similarity, root = means.similarity[places], np.sqrt(means.square)[places]
    second = root + means.scaled_square[places] / 2
    return (
        estimate_from_influence(1 - float(similarity.mean()), 2 * similarity, 0, 1),
        estimate_from_influence(1 - float(root.mean()), second, 0, 1),
    )


def _find_distinct(fingerprints: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the distinct fingerprints, which of them each sample has, and how often each occurs."""
    whole = np.ascontiguousarray(fingerprints).view(f"V{fingerprints.shape[1]}")[:, 0]
    _, first, places, counts = np.unique(whole, return_index=True, return_inverse=True, return_counts=True)
    return fingerprints[first], places, counts


def compute_wasserstein(values: np.ndarray, reference: np.ndarray) -> Estimate:
    """Compute the Wasserstein-1 distance of two sets of numbers, in their unit: logP, SA, QED and weight."""
    sampled, expected = np.sort(values), np.sort(reference)
    all_values = np.sort(np.concatenate([sampled, expected]))
    steps, places = np.diff(all_values), all_values[:-1]
    below = np.searchsorted(sampled, places, side="right")
    fractions = np.searchsorted(expected, places, side="right") / len(expected)

    def to_reference(weights: np.ndarray) -> float:
        return float(np.abs(np.concatenate([[0.0], np.cumsum(weights)])[below] / len(sampled) - fractions) @ steps)

    distance = float(wasserstein_distance(reference, values))
    return estimate_from_resamples(distance, [to_reference(weights) for weights in iter_resamples(len(sampled))], 0)
