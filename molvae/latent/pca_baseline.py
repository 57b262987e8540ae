"""PCA of one-hot symbols: the linear space that a latent space has to be better than.

A molecule is a matrix of positions and symbols (single ones, nothing merged), with a 1 for the symbol at a position or,
after the string, for its end. A point is transformed back to such a matrix, and the largest entry at each position is
decoded.

Shapes: n molecules, P positions (the symbols of the longest training molecule, at most MAX_POSITIONS), S symbols and
the end, Z components.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from molvae.data.dataset import TokenSet
from molvae.data.tokenizer import ids_to_selfies
from molvae.data.vocabulary import SPECIAL, Vocabulary
from molvae.runtime.seeds import derive_seed

MAX_TRAINING_MOLECULES = 2000  # 10 000 give the same metrics to a hundredth
MAX_POSITIONS = 256  # what a matrix takes of memory grows with them


class PCABaseline:
    """Principal components of training molecules.

    Attributes:
        pca: scikit-learn's, fitted.
        explained_variance: fraction of the variance of training molecules that the components hold.
    """

    def __init__(self, training: TokenSet, vocabulary: Vocabulary, dims: int) -> None:
        self.vocabulary = vocabulary
        self.positions = min(MAX_POSITIONS, max(map(len, self._expand(training))))
        matrices = self._encode_one_hot(training)
        self.pca = PCA(min(dims, *matrices.shape), random_state=0).fit(matrices)
        is_varied = np.ptp(matrices, axis=0).any()  # else there is no variance to explain, and 0 / 0 of it explained
        self.explained_variance = float(self.pca.explained_variance_ratio_.sum()) if is_varied else 0.0

    def encode(self, molecules: TokenSet) -> np.ndarray:
        """Encode molecules as points, (n, Z); what stands behind the last position is lost."""
        points: np.ndarray = self.pca.transform(self._encode_one_hot(molecules))
        return points

    def decode(self, points: np.ndarray) -> list[list[str]]:
        """Decode the SELFIES symbols of the string at each point."""
        matrices = self.pca.inverse_transform(points).reshape(len(points), self.positions, -1)
        best = matrices.argmax(2)
        ends = np.where((best == 0).any(1), (best == 0).argmax(1), self.positions)
        first = len(SPECIAL) - 1  # id of the symbol in column k is first + k
        strings = zip(best, ends, strict=True)
        return [ids_to_selfies(self.vocabulary, (row[:end] + first).tolist()) for row, end in strings]

    def sample(self, n: int, seed: int) -> np.ndarray:
        """Draw points of the normal distribution with mean and covariance of the training molecules' points, (n, Z)."""
        noise = np.random.default_rng(derive_seed(seed, "linear")).standard_normal((n, self.pca.n_components_))
        points: np.ndarray = noise * np.sqrt(self.pca.explained_variance_)
        return points

    def _expand(self, molecules: TokenSet) -> list[list[int]]:
        """Ids of the single symbols of each molecule."""
        expansions = self.vocabulary.expansions
        return [[k for token in molecules[row] for k in expansions[token]] for row in range(len(molecules))]

    def _encode_one_hot(self, molecules: TokenSet) -> np.ndarray:
        """(n, P S) float32."""
        columns = np.zeros((len(molecules), self.positions), np.int64)  # 0 is the end
        for row, symbols in zip(columns, self._expand(molecules), strict=True):
            row[: len(symbols)] = np.array(symbols[: self.positions]) - len(SPECIAL) + 1
        one_hot = np.eye(len(self.vocabulary.symbols) + 1, dtype=np.float32)[columns]
        return one_hot.reshape(len(molecules), -1)
