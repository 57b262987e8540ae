"""Principal components of one-hot symbols: the linear space that a latent space has to be better than.

A molecule is a matrix of positions and symbols (single ones, nothing merged), with a 1 for the symbol that stands at a
position and, behind the string, for its end. A point goes back to such a matrix, and the largest entry at each position
is what is written. It knows nothing of chemistry or of order, and is as good as its number of dimensions.

Shapes: n molecules, P positions (as many as the longest training molecule has symbols, at most LONGEST), S symbols and
the end, Z components.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from molvae.chemistry.tokenization import selfies_of
from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import SPECIAL, Vocabulary
from molvae.runtime.seeds import derive

TRAINING = 2000  # molecules; 10 000 give the same figures to a hundredth
LONGEST = 256  # positions: what a matrix takes of memory grows with them


class Linear:
    """Principal components of training molecules.

    Attributes:
        explained: share of the variance of training molecules that they hold.
    """

    def __init__(self, training: TokenSet, vocabulary: Vocabulary, dims: int) -> None:
        self.vocabulary = vocabulary
        self.positions = min(LONGEST, max(map(len, self._symbols(training))))
        matrices = self._one_hot(training)
        self.components = PCA(min(dims, *matrices.shape), random_state=0).fit(matrices)
        varied = np.ptp(matrices, axis=0).any()  # else there is no variance to explain, and 0 / 0 of it explained
        self.explained = float(self.components.explained_variance_ratio_.sum()) if varied else 0.0

    def encode(self, molecules: TokenSet) -> np.ndarray:
        """Points of molecules, (n, Z); what stands behind the last position is lost."""
        return self.components.transform(self._one_hot(molecules))

    def decode(self, points: np.ndarray) -> list[list[str]]:
        """SELFIES symbols of the string at each point."""
        matrices = self.components.inverse_transform(points).reshape(len(points), self.positions, -1)
        best = matrices.argmax(2)
        ends = np.where((best == 0).any(1), (best == 0).argmax(1), self.positions)
        first = len(SPECIAL) - 1  # id of the symbol in column k is first + k
        return [selfies_of(self.vocabulary, row[:end] + first) for row, end in zip(best, ends, strict=True)]

    def draw(self, n: int, seed: int) -> np.ndarray:
        """Points of the normal distribution with the mean and covariance of the training molecules' points, (n, Z)."""
        noise = np.random.default_rng(derive(seed, "linear")).standard_normal((n, self.components.n_components_))
        return noise * np.sqrt(self.components.explained_variance_)

    def _symbols(self, molecules: TokenSet) -> list[list[int]]:
        pieces = self.vocabulary.pieces
        return [[k for token in molecules[row] for k in pieces[token]] for row in range(len(molecules))]

    def _one_hot(self, molecules: TokenSet) -> np.ndarray:
        """(n, P S) float32."""
        columns = np.zeros((len(molecules), self.positions), np.int64)  # 0 is the end
        for row, symbols in zip(columns, self._symbols(molecules), strict=True):
            row[: len(symbols)] = np.array(symbols[: self.positions]) - len(SPECIAL) + 1
        return np.eye(len(self.vocabulary.symbols) + 1, dtype=np.float32)[columns].reshape(len(molecules), -1)
