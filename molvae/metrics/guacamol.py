"""The distribution-learning metrics of GuacaMol, as its published code (guacamol 0.5.5) defines them.

Source: Brown et al. 2019 (doi:10.1021/acs.jcim.8b00839). They look at no more than 10 000 samples and compare with as
many training molecules, stereo marks removed on both sides.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import entropy, gaussian_kde

from molvae.metrics import tanimoto
from molvae.metrics.intervals import Estimate, estimate_from_resamples, iter_resamples

MAX_SAMPLES = 10_000
CONTINUOUS = ("BertzCT", "MolLogP", "MolWt", "TPSA")
DISCRETE = ("NumHAcceptors", "NumHDonors", "NumRotatableBonds", "NumAliphaticRings", "NumAromaticRings")
N_POINTS, N_BINS, FLOOR = 1000, 10, 1e-10


def compute_kl_divergences(
    samples: dict[str, np.ndarray], training: dict[str, np.ndarray]
) -> tuple[Estimate, dict[str, Estimate]]:
    """Compute the KL divergence score, and its ten parts in nats.

    The score is the mean of exp(-KL(training || samples)) over the distributions of nine descriptors and of the
    similarity of a molecule to its nearest neighbour in the same set (4096 bits).

    Args:
        samples: name -> (n,) values, as `compute_guacamol_descriptors` gives them, "internal_similarity" among them.
        training: the same of training molecules.
    """
    names = (*CONTINUOUS, *DISCRETE, "internal_similarity")
    kinds = {name: DiscreteDivergence if name in DISCRETE else ContinuousDivergence for name in names}
    parts = {name: kinds[name](training[name], samples[name]) for name in names}
    values = {name: part.value for name, part in parts.items()}
    resampled: dict[str, list[float]] = {name: [] for name in names}
    for weights in iter_resamples(len(samples[names[0]])):
        for name, part in parts.items():
            resampled[name].append(part.compute_resampled(weights))
    scores = np.exp(-np.array(list(resampled.values()))).mean(0)  # of each resample
    score = estimate_from_resamples(float(np.mean(np.exp(-np.array(list(values.values()))))), scores, 0, 1)
    return score, {name: estimate_from_resamples(values[name], resampled[name], 0) for name in names}


class ContinuousDivergence:
    """KL divergence of Gaussian kernel densities at 1000 points, 1e-10 added.

    A set without any spread has no density: NaN.
    """

    def __init__(self, training: np.ndarray, samples: np.ndarray) -> None:
        self.value = math.nan
        if np.ptp(samples) == 0 or np.ptp(training) == 0:
            return
        both = np.concatenate([training, samples])
        points = np.linspace(both.min(), both.max(), N_POINTS)
        density = gaussian_kde(samples)
        self.target = gaussian_kde(training)(points) + FLOOR
        self.value = float(entropy(self.target, density(points) + FLOOR))
        # for resamples each sample is shared by the two points around it
        self.points, self.factor = points, density.factor
        places = (samples - points[0]) / (points[1] - points[0])
        self.lower = places.astype(int).clip(max=N_POINTS - 2)
        self.upper_part = places - self.lower

    def compute_resampled(self, weights: np.ndarray) -> float:
        """Compute the divergence where each sample counts so many times."""
        if math.isnan(self.value):
            return math.nan
        mass: np.ndarray = np.bincount(self.lower, weights * (1 - self.upper_part), N_POINTS)
        mass += np.bincount(self.lower + 1, weights * self.upper_part, N_POINTS)
        mass /= mass.sum()
        mean = mass @ self.points
        width = self.factor * math.sqrt(mass @ (self.points - mean) ** 2)
        if not width > 0:
            return math.nan
        reach = np.arange(-N_POINTS + 1, N_POINTS) * (self.points[1] - self.points[0])
        kernel = np.exp(-0.5 * (reach / width) ** 2) / (math.sqrt(2 * math.pi) * width)
        density = np.convolve(kernel, mass, "valid")
        return float(entropy(self.target, density.clip(0) + FLOOR))


class DiscreteDivergence:
    """KL divergence of histograms over ten equal bins of the training values, 1e-10 added.

    As published: samples beyond the training values are in no bin. If all are, there is no divergence: NaN.
    """

    def __init__(self, training: np.ndarray, samples: np.ndarray) -> None:
        target, edges = np.histogram(training, bins=N_BINS, density=True)
        self.target, self.width = target + FLOOR, edges[1] - edges[0]
        inside = (samples >= edges[0]) & (samples <= edges[-1])
        self.bins = np.where(inside, np.clip(np.searchsorted(edges, samples, side="right") - 1, 0, N_BINS - 1), N_BINS)
        self.value = self.compute_resampled(np.ones(len(samples)))

    def compute_resampled(self, weights: np.ndarray) -> float:
        """Compute the divergence where each sample counts so many times."""
        counts = np.bincount(self.bins, weights, N_BINS + 1)[:N_BINS]
        if not counts.sum():
            return math.nan
        return float(entropy(self.target, counts / counts.sum() / self.width + FLOOR))


def compute_internal_similarity(fingerprints: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Compute the Tanimoto similarity of each molecule, (n,), to the most similar other one of its set."""
    return tanimoto.compute_nearest_other_similarity(fingerprints, device=device)
