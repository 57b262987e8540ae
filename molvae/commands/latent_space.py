"""Commands `encode`, `decode`, `interpolate`, `neighbors`, `likelihood`: the latent space from the shell.

Tables go out as .csv or .parquet, a row for each row of the input, in its order; what cannot be read has no values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from molvae import api as models
from molvae.data.readers import Row, columns_of, read_rows, smiles_column
from molvae.errors import DataError, MolvaeError, did_you_mean
from molvae.runtime.files import replacing

SUFFIXES = (".csv", ".parquet")


def encode(file: Path, model: Path, column: str | None = None) -> pd.DataFrame:
    """Posterior of each molecule of a file: columns row, smiles, mu_0 …, logvar_0 …; empty where there is none."""
    rows = list(read_rows(file, smiles_column(file, column)))
    mu, logvar = models.load(model).encode([row.readable for row in rows])
    values = {f"{name}_{k}": part[:, k] for name, part in (("mu", mu), ("logvar", logvar)) for k in range(mu.shape[1])}
    return _table(rows, **values)


def likelihood(file: Path, model: Path, column: str | None = None, *, draws: int = 16, seed: int = 0) -> pd.DataFrame:
    """A bound of log p(x) of each molecule of a file, nats: columns row, smiles, log_likelihood."""
    rows = list(read_rows(file, smiles_column(file, column)))
    found = models.load(model).log_likelihood([row.readable for row in rows], draws=draws, seed=seed)
    return _table(rows, log_likelihood=found)


def decode(file: Path, model: Path, *, draws: int = 1, temperature: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """SMILES of the latent points of a file: columns row, draw, smiles, `draws` rows for each point.

    The points are its columns mu_0 … (as `encode` writes them) or z_0 …. A row without values has an empty SMILES.

    Raises:
        DataError: the file has no such columns, or not as many as the model has latent dimensions.
    """
    loaded, table = models.load(model), read_table(file)
    size = f"the model has {loaded.latent_dim} latent dimensions."
    kind = next((kind for kind in ("z", "mu") if f"{kind}_0" in table), None)
    if kind is None:
        raise DataError(f"{file}: no column z_0 or mu_0; {size}")
    names = [f"{kind}_{k}" for k in range(loaded.latent_dim)]
    if missing := [name for name in names if name not in table]:
        raise DataError(f"{file}: no column {missing[0]}; {size}")
    if (more := f"{kind}_{loaded.latent_dim}") in table:
        raise DataError(f"{file}: a column {more}, but {size}")
    try:
        points = table[names].to_numpy(np.float32)
    except (TypeError, ValueError) as err:
        raise DataError(f"{file}: columns {kind}_0 … hold what is no number ({err}).") from None
    there = np.isfinite(points).all(1)
    smiles = np.full((len(points), draws), "", dtype=object)
    repeated = np.repeat(points[there], draws, axis=0)
    if len(repeated):
        smiles[there] = np.reshape(loaded.decode(repeated, temperature=temperature, seed=seed), (-1, draws))
    rows, draw = np.repeat(np.arange(1, len(points) + 1), draws), np.tile(np.arange(1, draws + 1), len(points))
    return pd.DataFrame({"row": rows, "draw": draw, "smiles": smiles.ravel()})


def interpolate(start: str, end: str, model: Path, steps: int = 8) -> pd.DataFrame:
    """Molecules on the way from one to another: columns step, smiles."""
    smiles = models.load(model).interpolate(start, end, steps)
    return pd.DataFrame({"step": range(1, len(smiles) + 1), "smiles": smiles})


def neighbors(smiles: str, model: Path, n: int = 100, radius: float = 0.5, *, seed: int = 0) -> pd.DataFrame:
    """What the model writes near a molecule: columns smiles, frequency, similarity."""
    return models.load(model).neighbors(smiles, n, radius, seed=seed)


def predict(
    file: Path, target: str, model: Path, column: str | None = None, *, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A property of each molecule of a file, predicted from its latent point.

    Returns:
        columns row, smiles, value, predicted: rows with a value by a regression that has not seen them, the others by
        that of all values; and how good it is, as `molvae.latent.property_regression.Predictor.scores`.
    Raises:
        DataError: the file has no such column.
    """
    if not (names := columns_of(file)):
        raise DataError(f"{file}: a .smi file has no columns; give a table with a column {target!r}.")
    if target not in names:
        raise DataError(f"{file}: no column {target!r}.{did_you_mean(target, names)}")
    rows = list(read_rows(file, smiles_column(file, column), target))
    values = pd.to_numeric(pd.Series([row.split for row in rows], dtype=object), errors="coerce").to_numpy(float)
    predictor = models.load(model).predictor([row.readable for row in rows], values, seed=seed)
    predicted = predictor.at(predictor.points)
    predicted[predictor.rows] = predictor.out_of_fold
    return _table(rows, value=values, predicted=predicted), predictor.scores


def check_suffix(out: str) -> None:
    """Say before anything is computed that a table cannot be written there.

    Raises:
        MolvaeError: the name ends in neither .csv nor .parquet, and is not -.
    """
    if out != "-" and Path(out).suffix not in SUFFIXES:
        raise MolvaeError(f"--out {out}: give a name that ends in .csv or .parquet, or - for stdout.")


def write(table: pd.DataFrame, out: str) -> None:
    """Write a table to a .csv or .parquet file, whole or not at all, or to stdout."""
    if out == "-":
        print(table.to_csv(index=False), end="")
        return
    with replacing(Path(out)) as temporary:
        if Path(out).suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)


def _table(rows: Sequence[Row], **columns: np.ndarray) -> pd.DataFrame:
    """A row for each, with its number and its text as it stands in the file."""
    return pd.DataFrame({"row": range(1, len(rows) + 1), "smiles": [row.smiles for row in rows], **columns})


def read_table(file: Path) -> pd.DataFrame:
    """All columns of a file, a row for each of its rows."""
    columns_of(file)  # which says what is wrong with a file that cannot be read
    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    return pd.read_csv(file, sep="\t" if ".tsv" in file.suffixes else ",")
