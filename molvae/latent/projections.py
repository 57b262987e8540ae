"""Molecules in two dimensions: principal components and t-SNE of latent points, and of fingerprints beside them.

Shapes: n molecules. Runs in worker processes, which should start without torch.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from molvae.chemistry.descriptors import bits_of
from molvae.runtime.workers import Workers

PROPERTIES = ("mw", "logp", "qed", "sa", "tpsa", "rings", "heavy_atoms")
SPACES, METHODS = ("latent", "fingerprint"), ("pca", "tsne")
COORDINATES = tuple(f"{space}_{method}_{axis}" for space in SPACES for method in METHODS for axis in (1, 2))
COLUMNS = ("row", "smiles", *PROPERTIES, *COORDINATES)
COMPONENTS = 50  # principal components that t-SNE starts from
PERPLEXITY = 30
STEPS = 500  # the divergence after 1000 is 2 % lower, for twice the time


def mapped(
    rows: np.ndarray, described: pd.DataFrame, mu: np.ndarray, workers: Workers
) -> tuple[pd.DataFrame, dict[str, list[float]]]:
    """The table of n molecules with COLUMNS, and the shares of variance that two components of each space hold.

    Args:
        rows: (n,) of the file of molecules, from 1.
        described: n rows of `molvae.metrics.molecule_table`.
        mu: (n, Z) latent means.
    """
    points = {"latent": mu.astype(float), "fingerprint": bits_of(described["fingerprint"])}
    found = list(workers.in_order(in_two_dimensions, [points[space] for space in SPACES]))
    columns = np.concatenate([part for pca, tsne, _ in found for part in (pca, tsne)], axis=1)
    own = described[list(PROPERTIES)].assign(row=rows, smiles=described["canonical"])
    table = pd.concat([own, pd.DataFrame(columns, columns=list(COORDINATES))], axis=1)
    return table[list(COLUMNS)], {space: shares for space, (_, _, shares) in zip(SPACES, found, strict=True)}


def in_two_dimensions(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Principal components and t-SNE of points, (n, 2) each, and the shares of variance of those components.

    t-SNE starts from the components, which keeps what is far apart so (Kobak & Berens 2019,
    doi:10.1038/s41467-019-13056-x), and takes one thread, so that the same points give the same map on any number of
    cores. Where all points are one, so is the map.
    """
    from sklearn.decomposition import PCA  # for which those that want the names of columns need not wait
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    found, shares = np.zeros((len(points), 2)), np.zeros(2)
    if len(points) < 2 or not np.ptp(points, axis=0).any():
        return found, found, shares.tolist()
    with threadpool_limits(1):
        pca = PCA(min(COMPONENTS, *points.shape), random_state=0)
        components = pca.fit_transform(points)
        found[:, : components.shape[1]] = components[:, :2]
        shares[: components.shape[1]] = pca.explained_variance_ratio_[:2]
        start = (found / found[:, 0].std() * 1e-4).astype(np.float32)
        perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
        tsne = TSNE(init=start, perplexity=perplexity, max_iter=STEPS).fit_transform(components)
    return found, tsne.astype(float), shares.tolist()
