"""Fréchet ChemNet distance: how far a set of molecules is from a reference, as ChemNet sees both.

Source: Preuer et al. 2018 (doi:10.1021/acs.jcim.8b00234). Weights, encoding and network are those of `fcd_torch`, which
the published MOSES metrics were computed with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from molvae.errors import DataError
from molvae.metrics.chemnet import compute_activations
from molvae.metrics.intervals import Estimate, estimate_from_influence

BATCH_SIZE = 65_536  # activations


@dataclass(frozen=True)
class Statistics:
    """Mean (512,) and covariance (512, 512) of ChemNet activations of `n` molecules."""

    mu: np.ndarray
    sigma: np.ndarray
    n: int


def compute_statistics(smiles: Sequence[str], *, device: str = "cpu") -> Statistics:
    """Compute the statistics of canonical SMILES.

    Raises:
        DataError: fewer than two molecules have no covariance.
    """
    return compute_activation_statistics(compute_activations(smiles, device=device))


def compute_activation_statistics(activations: np.ndarray) -> Statistics:
    """Compute the statistics of (n, 512) activations.

    Raises:
        DataError: fewer than two molecules have no covariance.
    """
    if len(activations) < 2:
        raise DataError(f"FCD needs at least 2 valid molecules, there are {len(activations)}.")
    mu = activations.mean(0, dtype=np.float64)
    products = [centred.T @ centred for centred in _iter_centred(activations, mu)]
    sigma = np.asarray(sum(products)) / (len(activations) - 1)
    return Statistics(mu, sigma, len(activations))


def load_moses_test_statistics() -> Statistics:
    """Load the statistics of the 176 074 molecules of the MOSES test set, as its authors published them."""
    tensors = load_file(Path(__file__).with_name("moses_test.safetensors"))
    return Statistics(tensors["mu"].astype(np.float64), tensors["sigma"].astype(np.float64), 176_074)


def estimate_fcd(activations: np.ndarray, reference: Statistics) -> Estimate:
    """Estimate the distance of (n, 512) activations to a reference, with its interval.

    What one sample does to the distance follows from the optimal transport between the two Gaussians: Rippl, Munk &
    Sturm 2016, doi:10.1016/j.jmva.2016.06.005. The interval is that of the distance at this n, which is above the one
    of endless samples.
    """
    sampled = compute_activation_statistics(activations)
    distance, root, middle, axes = _compute_transport(reference, sampled)
    nonzero = middle > middle[-1] * 1e-10
    half = root @ axes[:, nonzero]
    slope = np.eye(len(root)) - (half / np.sqrt(middle[nonzero])) @ half.T
    shift = 2 * (sampled.mu - reference.mu)
    influence = [
        part @ shift + np.einsum("ij,ij->i", part @ slope, part) for part in _iter_centred(activations, sampled.mu)
    ]
    return estimate_from_influence(distance, np.concatenate(influence), 0)


def _iter_centred(activations: np.ndarray, mu: np.ndarray) -> Iterator[np.ndarray]:
    """Iterate over activations minus their mean, in double precision and in blocks: a million of them are 4 GB."""
    for start in range(0, len(activations), BATCH_SIZE):
        yield activations[start : start + BATCH_SIZE] - mu


def compute_frechet_distance(first: Statistics, second: Statistics) -> float:
    """Compute |mu1 − mu2|² + tr(S1 + S2 − 2 (S1 S2)^½)."""
    return _compute_transport(first, second)[0]


def _compute_transport(first: Statistics, second: Statistics) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Compute the distance, R = S1^½, and the eigenvalues and eigenvectors of R S2 R.

    The trace of the root of S1 S2 is the sum of the roots of these eigenvalues; R S2 R is symmetric: no complex parts,
    no general matrix root.
    """
    values, vectors = np.linalg.eigh(first.sigma)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    middle, axes = np.linalg.eigh(root @ second.sigma @ root)
    difference = first.mu - second.mu
    spread = np.trace(first.sigma) + np.trace(second.sigma) - 2 * np.sqrt(middle.clip(0)).sum()
    return float(difference @ difference + spread), root, middle, axes
