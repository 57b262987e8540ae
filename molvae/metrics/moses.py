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
from molvae.metrics.intervals import Estimate, of_influence, of_mean, of_resamples, resamples


def snn(fingerprints: np.ndarray, references: np.ndarray, device: str = "cpu") -> Estimate:
    """Mean Tanimoto similarity to the nearest reference molecule; Morgan fingerprints, radius 2, 1024 bits."""
    distinct, places, _ = _distinct(fingerprints)
    return of_mean(tanimoto.nearest(distinct, references, device=device)[places], 0, 1)


def cosine(samples: Sequence[Sequence[str]], reference: Mapping[str, int]) -> Estimate:
    """Cosine of the counts of all samples together and those of the reference: Frag and Scaf.

    Args:
        samples: what each sample holds, as often as it holds it.
    """
    numbers: dict[str, int] = {}
    held = [numbers.setdefault(name, len(numbers)) for one in samples for name in one]
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
    return of_resamples(value, [to_reference(weights) for weights in resamples(len(samples))], 0, 1)


def diversities(fingerprints: np.ndarray, device: str = "cpu") -> tuple[Estimate, Estimate]:
    """IntDiv and IntDiv2: one less the mean similarity of all pairs, each with itself among them.

    IntDiv2 is one less the mean over samples of the root of a sample's mean squared similarity, which is what the
    published code does; its paper has the root of the mean over all pairs.
    """
    distinct, places, counts = _distinct(fingerprints)
    means = tanimoto.means(distinct, counts, device=device)
    similarity, root = means.similarity[places], np.sqrt(means.square)[places]
    second = root + means.scaled_square[places] / 2
    return (
        of_influence(1 - float(similarity.mean()), 2 * similarity, 0, 1),
        of_influence(1 - float(root.mean()), second, 0, 1),
    )


def _distinct(fingerprints: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fingerprints that differ, which of them each sample has, and how often each occurs."""
    whole = np.ascontiguousarray(fingerprints).view(f"V{fingerprints.shape[1]}")[:, 0]
    _, first, places, counts = np.unique(whole, return_index=True, return_inverse=True, return_counts=True)
    return fingerprints[first], places, counts


def wasserstein(values: np.ndarray, reference: np.ndarray) -> Estimate:
    """Wasserstein-1 distance of two sets of numbers, in their unit: logP, SA, QED and weight."""
    own, other = np.sort(values), np.sort(reference)
    everything = np.sort(np.concatenate([own, other]))
    steps, places = np.diff(everything), everything[:-1]
    below = np.searchsorted(own, places, side="right")
    shares = np.searchsorted(other, places, side="right") / len(other)

    def to_reference(weights: np.ndarray) -> float:
        return float(np.abs(np.concatenate([[0.0], np.cumsum(weights)])[below] / len(own) - shares) @ steps)

    distance = float(wasserstein_distance(reference, values))
    return of_resamples(distance, [to_reference(weights) for weights in resamples(len(own))], 0)
