"""Fréchet ChemNet distance: how far a set of molecules is from a reference, as ChemNet sees both.

Source: Preuer et al. 2018 (doi:10.1021/acs.jcim.8b00234). Weights, encoding and network are those of `fcd_torch`, which
the published MOSES figures were computed with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from molvae.errors import DataError

BATCH = 256
IMPLEMENTATION = f"ChemNet of fcd_torch {metadata.version('fcd-torch')}"
_WIDTH = 350  # characters ChemNet reads


@dataclass(frozen=True)
class Statistics:
    """Mean (512,) and covariance (512, 512) of ChemNet activations of `n` molecules."""

    mu: np.ndarray
    sigma: np.ndarray
    n: int


def statistics(smiles: Sequence[str]) -> Statistics:
    """Statistics of canonical SMILES.

    Raises:
        DataError: fewer than two molecules have no covariance.
    """
    if len(smiles) < 2:
        raise DataError(f"FCD needs at least 2 valid molecules, there are {len(smiles)}.")
    found = activations(smiles)
    return Statistics(found.mean(0), np.cov(found.T), len(smiles))


def moses_test() -> Statistics:
    """The statistics of the 176 074 molecules of the MOSES test set, as its authors published them."""
    tensors = load_file(Path(__file__).with_name("moses_test.safetensors"))
    return Statistics(tensors["mu"].astype(np.float64), tensors["sigma"].astype(np.float64), 176_074)


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """|mu1 − mu2|² + tr(S1 + S2 − 2 (S1 S2)^½).

    The trace of the root is the sum of the roots of the eigenvalues of R S2 R with R = S1^½, which is symmetric:
    no complex parts, no general matrix root.
    """
    values, vectors = np.linalg.eigh(one.sigma)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    middle = np.linalg.eigvalsh(root @ other.sigma @ root).clip(0)
    difference = one.mu - other.mu
    return float(difference @ difference + np.trace(one.sigma) + np.trace(other.sigma) - 2 * np.sqrt(middle).sum())


def activations(smiles: Sequence[str]) -> np.ndarray:
    """ChemNet's last hidden layer for canonical SMILES, (n, 512) float64, rows as in the input; each molecule once."""
    from fcd_torch.utils import get_one_hot

    network = _chemnet()
    parts = []
    distinct, places = np.unique(np.array(smiles, dtype=object), return_inverse=True)
    with torch.inference_mode():
        for start in range(0, len(distinct), BATCH):
            some = distinct[start : start + BATCH]
            encoded = np.stack([get_one_hot(one, _WIDTH) for one in some]) / 35.0  # as fcd_torch scales its one-hot
            parts.append(network(torch.from_numpy(encoded).float().transpose(1, 2)).double().numpy())
    return np.concatenate(parts)[places]


@cache
def _chemnet() -> torch.nn.Module:
    import fcd_torch
    from fcd_torch.utils import load_imported_model

    path = Path(fcd_torch.__file__).with_name("ChemNet_v0.13_pretrained.pt")
    return load_imported_model(torch.load(path, weights_only=True)).eval()
