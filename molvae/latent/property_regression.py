"""Properties predicted from latent points, beside the same from fingerprints. Shapes: n molecules, F features."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import pandas as pd

from molvae.chemistry.fingerprints import compute_fingerprint, unpack_fingerprints
from molvae.chemistry.standardise import parse_smiles
from molvae.errors import MolvaeError

log = logging.getLogger(__name__)
FOLDS = 5
MIN_MOLECULES = 2 * FOLDS
MAX_GP_MOLECULES = 500  # that a Gaussian process is fitted to: its time grows with their cube
KINDS = ("ridge", "gp")
LATENT_POINTS = "latent points"  # name of a representation

EncodeFunction = Callable[
    [Sequence[str]], tuple[np.ndarray, np.ndarray]
]  # SMILES -> posterior, NaN where it cannot be read
Predictions = dict[tuple[str, str], np.ndarray]  # (representation, kind of regression) -> (n,)


class Predictor:
    """A property of molecules, predicted from their latent points.

    Rows of the same molecule are one molecule with the mean of their values: no regression is tried on one it has seen.

    Attributes:
        points: (n, Z) of the given molecules, NaN where one cannot be read.
        rows: of the given molecules, those that it has learned from.
        scores: a row for each representation and kind of regression: r2 and mae of `out_of_fold` predictions, n, the
            number of different molecules; that of the mean is the baseline.
        kind: of the regression that predicts, the one with the higher r2 from latent points.
        out_of_fold: for each of `rows` a prediction by a regression that has not seen its molecule.
    """

    def __init__(
        self,
        encode: EncodeFunction,
        standardise: Callable[[str], str],
        smiles: Sequence[str],
        values: Sequence[float],
        seed: int = 0,
    ) -> None:
        """Fit the predictor and measure it.

        Args:
            encode: that of the model.
            standardise: to canonical SMILES, as the model does.
            smiles: molecules.
            values: of the property, one for each; rows without a finite one are left out.
            seed: of the folds.

        Raises:
            MolvaeError: fewer than MIN_MOLECULES are left, or there are not as many values as molecules.
        """
        smiles = list(smiles)
        try:
            targets = np.asarray(values, float)
        except (TypeError, ValueError) as err:
            raise MolvaeError(f"values hold what is no number ({err}); give NaN where there is none.") from None
        if targets.ndim != 1 or len(smiles) != len(targets):
            raise MolvaeError(f"{len(smiles)} molecules and {len(targets)} values; one for each is needed.")
        self._encode = encode
        self.points = encode(smiles)[0]
        self.rows = np.flatnonzero(np.isfinite(self.points).all(1) & np.isfinite(targets))
        canonical, first, molecule = np.unique(
            [standardise(smiles[row]) for row in self.rows], return_index=True, return_inverse=True
        )
        if len(canonical) < MIN_MOLECULES:
            raise MolvaeError(
                f"{len(canonical)} different molecules have a latent point and a value; {MIN_MOLECULES} are needed."
            )
        if repeats := len(self.rows) - len(canonical):
            log.warning("%d rows repeat a molecule; the mean of its values is learned", repeats)
        points = self.points[self.rows[first]]
        targets = np.bincount(molecule, targets[self.rows]) / np.bincount(molecule)
        fingerprints = unpack_fingerprints([compute_fingerprint(parse_smiles(text)) for text in canonical])
        predictions = predict_all_out_of_fold({LATENT_POINTS: points, "fingerprints": fingerprints}, targets, seed)
        self.scores = score_predictions(predictions, targets)
        self.kind = max(KINDS, key=lambda kind: compute_errors(targets, predictions[LATENT_POINTS, kind])["r2"])
        self.out_of_fold = predictions[LATENT_POINTS, self.kind][molecule]
        self._regression = fit_regression(self.kind, points, targets, seed)

    @overload
    def __call__(self, smiles: str) -> float: ...  # type: ignore[overload-overlap]  # a str is a sequence of str
    @overload
    def __call__(self, smiles: Sequence[str]) -> np.ndarray: ...
    def __call__(self, smiles: str | Sequence[str]) -> np.ndarray | float:
        """Predict the property of one molecule, or of several, (n,), as in the input; NaN where one cannot be read."""
        if isinstance(smiles, str):
            return float(self([smiles])[0])
        return self.predict_at(self._encode(smiles)[0])

    def predict_at(self, points: np.ndarray) -> np.ndarray:
        """Predict the property at latent points, (n, Z): (n,), NaN where they are."""
        is_known = np.isfinite(points).all(1)
        predicted = np.full(len(points), np.nan)
        if is_known.any():
            predicted[is_known] = self._regression.predict(points[is_known])
        return predicted


def score_predictions(predictions: Predictions, values: np.ndarray) -> pd.DataFrame:
    """Score predictions: a row for each representation and kind, and one for the mean.

    Returns:
        columns representation, predictor, n, r2, mae.
    """
    predictions = predictions | {("none", "mean"): np.full(len(values), values.mean())}
    return pd.DataFrame(
        {"representation": name, "predictor": kind, "n": len(values), **compute_errors(values, predicted)}
        for (name, kind), predicted in predictions.items()
    )


def predict_all_out_of_fold(
    representations: dict[str, np.ndarray], values: np.ndarray, seed: int = 0, kinds: Sequence[str] = KINDS
) -> Predictions:
    """Predict out of fold from each representation by each kind of regression.

    Args:
        representations: name -> (n, F) features.
        values: (n,) of the property.
        seed: of the folds.
        kinds: of regression.
    """
    return {
        (name, kind): predict_out_of_fold(kind, features, values, seed)
        for name, features in representations.items() for kind in kinds
    }  # fmt: skip


def predict_out_of_fold(kind: str, features: np.ndarray, values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Predict for each molecule, (n,), by a regression on four fifths of them, without it.

    Args:
        kind: of regression, as in `fit_regression`.
        features: (n, F).
        values: (n,).
        seed: of the folds.
    """
    from sklearn.model_selection import KFold

    predicted = np.empty(len(values))
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(features):
        predicted[test] = fit_regression(kind, features[train], values[train], seed).predict(features[test])
    return predicted


def fit_regression(kind: str, features: np.ndarray, values: np.ndarray, seed: int = 0) -> Any:
    """Fit a regression of values on features, as scikit-learn has them.

    Args:
        kind: `ridge` chooses its strength by leaving out each molecule; `gp` is a Gaussian process with a squared
            exponential kernel and noise, chosen by marginal likelihood, on at most MAX_GP_MOLECULES of the rows.
        features: (n, F).
        values: (n,).
        seed: of the choice of rows.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "ridge":
        return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 5, 15))).fit(features, values)
    rows = np.random.default_rng(seed).permutation(len(values))[:MAX_GP_MOLECULES]
    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * RBF(10.0, (0.1, 1e3)) + WhiteKernel(0.1, (1e-6, 1e2))
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # a kernel at its bound is no harm
        return GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed).fit(features[rows], values[rows])


def compute_errors(values: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Compute R² (1 is exact, 0 as good as the mean; NaN where all values are the same) and mean absolute error."""
    spread = np.square(values - values.mean()).sum()
    r2 = 1 - np.square(values - predicted).sum() / spread if spread else np.nan
    return {"r2": float(r2), "mae": float(np.abs(values - predicted).mean())}
