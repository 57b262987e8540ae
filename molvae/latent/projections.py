"""Molecules in two dimensions: PCA and t-SNE of latent points, and of fingerprints beside them.

Shapes: n molecules. Runs in worker processes, which should start without torch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from molvae.chemistry.descriptor_table import CHARTED_DESCRIPTORS
from molvae.chemistry.fingerprints import unpack_fingerprints
from molvae.runtime.workers import Workers

SPACES, METHODS = ("latent", "fingerprint"), ("pca", "tsne")
COORDINATES = tuple(f"{space}_{method}_{axis}" for space in SPACES for method in METHODS for axis in (1, 2))
COLUMNS = ("row", "smiles", *CHARTED_DESCRIPTORS, *COORDINATES)
COMPONENTS = 50  # principal components that t-SNE starts from
PERPLEXITY = 30
TSNE_STEPS = 500  # the divergence after 1000 is 2 % lower, for twice the time


class Projection(NamedTuple):
    """PCA and t-SNE of points, (n, 2) each, and the fractions of variance of the two components."""

    pca: np.ndarray
    tsne: np.ndarray
    explained_variance: list[float]


def compute_projections(
    rows: np.ndarray, molecules: pd.DataFrame, mu: np.ndarray, workers: Workers
) -> tuple[pd.DataFrame, dict[str, list[float]]]:
    """Project molecules to two dimensions.

    Args:
        rows: (n,) of the file of molecules, from 1.
        molecules: n rows of `molvae.metrics.molecule_table`.
        mu: (n, Z) latent means.
        workers: processes.

    Returns:
        the table with COLUMNS, and the fractions of variance that two components of each space hold.
    """
    points = {"latent": mu.astype(float), "fingerprint": unpack_fingerprints(molecules["fingerprint"].tolist())}
    projections = list(workers.map(project_to_2d, [points[space] for space in SPACES]))
    parts = [part for projection in projections for part in (projection.pca, projection.tsne)]
    coordinates = np.concatenate(parts, axis=1)
    descriptors = molecules[list(CHARTED_DESCRIPTORS)].assign(row=rows, smiles=molecules["canonical"])
    table = pd.concat([descriptors, pd.DataFrame(coordinates, columns=list(COORDINATES))], axis=1)
    explained = {space: part.explained_variance for space, part in zip(SPACES, projections, strict=True)}
    return table[list(COLUMNS)], explained


def project_to_2d(points: np.ndarray) -> Projection:
    """Compute principal components and t-SNE of points.

    t-SNE starts from the components, which keeps what is far apart so (Kobak & Berens 2019,
    doi:10.1038/s41467-019-13056-x), and takes one thread, so that the same points give the same projection on any
    number of cores. Where all points are one, so is the projection.
    """
    from sklearn.decomposition import PCA  # for which those that need the names of columns do not wait
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    first_two, explained = np.zeros((len(points), 2)), np.zeros(2)
    if len(points) < 2 or not np.ptp(points, axis=0).any():
        return Projection(first_two, first_two, explained.tolist())
    with threadpool_limits(1):
        pca = PCA(min(COMPONENTS, *points.shape), random_state=0)
        components = pca.fit_transform(points)
        first_two[:, : components.shape[1]] = components[:, :2]
        explained[: components.shape[1]] = pca.explained_variance_ratio_[:2]
        start = (first_two / first_two[:, 0].std() * 1e-4).astype(np.float32)
        perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
        tsne = TSNE(init=start, perplexity=perplexity, max_iter=TSNE_STEPS).fit_transform(components)
    return Projection(first_two, tsne.astype(float), explained.tolist())
