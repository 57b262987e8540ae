"""Fréchet ChemNet distance: how far a set of molecules is from a reference, as ChemNet sees both.

Source: Preuer et al. 2018 (doi:10.1021/acs.jcim.8b00234). Weights, encoding and network are those of `fcd_torch`, which
the published MOSES figures were computed with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from molvae.errors import DataError
from molvae.metrics.chemnet import activations
from molvae.metrics.intervals import Estimate, of_influence

BLOCK = 65_536  # activations
IMPLEMENTATION = f"ChemNet of fcd_torch {metadata.version('fcd-torch')}"


@dataclass(frozen=True)
class Statistics:
    """Mean (512,) and covariance (512, 512) of ChemNet activations of `n` molecules."""

    mu: np.ndarray
    sigma: np.ndarray
    n: int


def statistics(smiles: Sequence[str], *, device: str = "cpu") -> Statistics:
    """Statistics of canonical SMILES.

    Raises:
        DataError: fewer than two molecules have no covariance.
    """
    return statistics_of(activations(smiles, device=device))


def statistics_of(found: np.ndarray) -> Statistics:
    """Statistics of (n, 512) activations.

    Raises:
        DataError: fewer than two molecules have no covariance.
    """
    if len(found) < 2:
        raise DataError(f"FCD needs at least 2 valid molecules, there are {len(found)}.")
    mu = found.mean(0, dtype=np.float64)
    sigma = sum(centred.T @ centred for centred in _centred(found, mu)) / (len(found) - 1)
    return Statistics(mu, sigma, len(found))


def moses_test() -> Statistics:
    """The statistics of the 176 074 molecules of the MOSES test set, as its authors published them."""
    tensors = load_file(Path(__file__).with_name("moses_test.safetensors"))
    return Statistics(tensors["mu"].astype(np.float64), tensors["sigma"].astype(np.float64), 176_074)


def estimate(found: np.ndarray, reference: Statistics) -> Estimate:
    """The distance of (n, 512) activations to a reference, and its interval.

    What one sample does to the distance follows from the optimal transport between the two Gaussians: Rippl, Munk &
    Sturm 2016, doi:10.1016/j.jmva.2016.06.005. The interval is that of the distance at this n, which is above the one
    of endless samples.
    """
    own = statistics_of(found)
    distance, root, middle, axes = _transport(reference, own)
    some = middle > middle[-1] * 1e-10
    half = root @ axes[:, some]
    slope = np.eye(len(root)) - (half / np.sqrt(middle[some])) @ half.T
    shift = 2 * (own.mu - reference.mu)
    influence = [part @ shift + np.einsum("ij,ij->i", part @ slope, part) for part in _centred(found, own.mu)]
    return of_influence(distance, np.concatenate(influence), 0)


def _centred(found: np.ndarray, mu: np.ndarray) -> Iterator[np.ndarray]:
    """The activations less their mean, in double precision and in blocks: a million of them are 4 GB."""
    for start in range(0, len(found), BLOCK):
        yield found[start : start + BLOCK] - mu


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """|mu1 − mu2|² + tr(S1 + S2 − 2 (S1 S2)^½)."""
    return _transport(one, other)[0]


def _transport(one: Statistics, other: Statistics) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """The distance, R = S1^½, and the eigenvalues and eigenvectors of R S2 R.

    The trace of the root of S1 S2 is the sum of the roots of these eigenvalues; R S2 R is symmetric: no complex parts,
    no general matrix root.
    """
    values, vectors = np.linalg.eigh(one.sigma)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    middle, axes = np.linalg.eigh(root @ other.sigma @ root)
    difference = one.mu - other.mu
    spread = np.trace(one.sigma) + np.trace(other.sigma) - 2 * np.sqrt(middle.clip(0)).sum()
    return float(difference @ difference + spread), root, middle, axes
