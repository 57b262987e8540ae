"""Properties predicted from latent points, beside the same from fingerprints. Shapes: n molecules, F features."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from molvae.chemistry.descriptors import bits_of, fingerprint
from molvae.chemistry.standardise import parse
from molvae.errors import MolvaeError

log = logging.getLogger(__name__)
FOLDS = 5
LEAST = 2 * FOLDS
MOST = 500  # molecules that a Gaussian process is fitted to: its time grows with their cube
KINDS = ("ridge", "gp")
POINTS = "latent points"

Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]  # SMILES -> posterior, NaN where there is none
Predictions = dict[tuple[str, str], np.ndarray]  # (representation, kind of regression) -> (n,)


class Predictor:
    """A property of molecules, predicted from their latent points.

    Rows of the same molecule are one molecule with the mean of their values: no regression is tried on one it has seen.

    Attributes:
        points: (n, Z) of the given molecules, NaN where there is none.
        rows: of the given molecules, those that it has learned from.
        scores: a row for each representation and kind of regression: r2 and mae of `out_of_fold` predictions, n, the
            number of different molecules; that of the mean is the null.
        kind: of the regression that predicts, the one with the higher r2 from latent points.
        out_of_fold: for each of `rows` a prediction by a regression that has not seen its molecule.
    """

    def __init__(
        self,
        encode: Encode,
        standard: Callable[[str], str],
        smiles: Sequence[str],
        values: Sequence[float],
        seed: int = 0,
    ) -> None:
        smiles, targets = list(smiles), np.asarray(values, float)
        if len(smiles) != len(targets):
            raise MolvaeError(f"{len(smiles)} molecules and {len(targets)} values; one for each is needed.")
        self._encode = encode
        self.points = encode(smiles)[0]
        self.rows = np.flatnonzero(np.isfinite(self.points).all(1) & np.isfinite(targets))
        forms, first, which = np.unique(
            [standard(smiles[row]) for row in self.rows], return_index=True, return_inverse=True
        )
        if len(forms) < LEAST:
            raise MolvaeError(f"{len(forms)} different molecules have a latent point and a value; {LEAST} are needed.")
        if repeats := len(self.rows) - len(forms):
            log.warning("%d rows repeat a molecule; the mean of its values is learned", repeats)
        points, targets = self.points[self.rows[first]], np.bincount(which, targets[self.rows]) / np.bincount(which)
        prints = bits_of([fingerprint(parse(form)) for form in forms])
        told = all_out_of_fold({POINTS: points, "fingerprints": prints}, targets, seed)
        self.scores = compared(told, targets)
        self.kind = max(KINDS, key=lambda kind: errors(targets, told[POINTS, kind])["r2"])
        self.out_of_fold = told[POINTS, self.kind][which]
        self._regression = fit(self.kind, points, targets, seed)

    def __call__(self, smiles: str | Sequence[str]) -> np.ndarray | float:
        """The property of one molecule, or of several, (n,), rows as in the input; NaN where the model reads none."""
        if isinstance(smiles, str):
            return float(self([smiles])[0])
        return self.at(self._encode(smiles)[0])

    def at(self, points: np.ndarray) -> np.ndarray:
        """The property at latent points, (n, Z): (n,), NaN where they are."""
        there = np.isfinite(points).all(1)
        found = np.full(len(points), np.nan)
        if there.any():
            found[there] = self._regression.predict(points[there])
        return found


def compared(told: Predictions, values: np.ndarray) -> pd.DataFrame:
    """A row for each representation and kind, and one for the mean: columns representation, predictor, n, r2, mae."""
    told = told | {("none", "mean"): np.full(len(values), values.mean())}
    return pd.DataFrame(
        {"representation": name, "predictor": kind, "n": len(values), **errors(values, predicted)}
        for (name, kind), predicted in told.items()
    )


def all_out_of_fold(representations: dict[str, np.ndarray], values: np.ndarray, seed: int = 0) -> Predictions:
    """`out_of_fold` from each representation, (n, F), by each kind of regression."""
    return {
        (name, kind): out_of_fold(kind, features, values, seed)
        for name, features in representations.items() for kind in KINDS
    }  # fmt: skip


def out_of_fold(kind: str, features: np.ndarray, values: np.ndarray, seed: int = 0) -> np.ndarray:
    """A prediction for each molecule, (n,), by a regression on four fifths of them, without it."""
    from sklearn.model_selection import KFold

    found = np.empty(len(values))
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(features):
        found[test] = fit(kind, features[train], values[train], seed).predict(features[test])
    return found


def fit(kind: str, features: np.ndarray, values: np.ndarray, seed: int = 0) -> Any:
    """A regression of values, (n,), on features, (n, F), as scikit-learn has them.

    `ridge` chooses its strength by leaving out each molecule; `gp` is a Gaussian process with a squared exponential
    kernel and noise, chosen by marginal likelihood, on at most MOST of the rows.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "ridge":
        return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 5, 15))).fit(features, values)
    rows = np.random.default_rng(seed).permutation(len(values))[:MOST]
    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * RBF(10.0, (0.1, 1e3)) + WhiteKernel(0.1, (1e-6, 1e2))
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # a kernel at its bound is no harm
        return GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed).fit(features[rows], values[rows])


def errors(values: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """R² (1 is exact, 0 as good as the mean; NaN where all values are the same) and mean absolute error."""
    spread = np.square(values - values.mean()).sum()
    r2 = 1 - np.square(values - predicted).sum() / spread if spread else np.nan
    return {"r2": float(r2), "mae": float(np.abs(values - predicted).mean())}
