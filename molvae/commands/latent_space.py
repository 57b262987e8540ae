"""Commands `encode`, `decode`, `interpolate`, `neighbors`, `likelihood`, `predict`: the latent space from the shell.

Tables go out as .csv or .parquet, a row for each row of the input, in its order; what cannot be read has no values.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from molvae.api import Model, load
from molvae.data.formats import TABLE_SUFFIXES, find_suffix, has_suffix
from molvae.data.readers import SPLIT_COLUMN, Row, find_smiles_column, read_column_names, read_rows
from molvae.data.text_tables import WHITE_SPACE, find_layout
from molvae.data.unreadable import require_a_molecule
from molvae.errors import DataError, MolvaeError, suggest_nearest
from molvae.runtime.files import atomic_write
from molvae.runtime.plain_text import protect_table, restore_table

log = logging.getLogger(__name__)
TEXT_COLUMNS = {"model_id": str, "smiles": str}  # digits of an id are no number


def encode_file(file: Path, model: Path, column: str | None = None) -> pd.DataFrame:
    """Encode each molecule of a file: columns row, smiles, model_id, mu_0 …, logvar_0 …; empty where it cannot be read.

    `model_id` says which model the points belong to (`molvae.api.Model.id`).
    """
    rows, loaded = _read_molecules(file, column), load(model)
    mu, logvar = loaded.encode([row.usable_smiles for row in rows])
    parts = {"mu": mu, "logvar": logvar}
    values = {f"{name}_{k}": part[:, k] for name, part in parts.items() for k in range(mu.shape[1])}
    return _build_table(rows, model_id=np.full(len(rows), loaded.id), **values)


def score_likelihood(
    file: Path, model: Path, column: str | None = None, *, draws: int = 16, seed: int = 0
) -> pd.DataFrame:
    """Estimate a bound of log p(x) of each molecule of a file, nats.

    Args:
        file: molecules.
        model: folder, or pretrained:NAME.
        column: column of the SMILES; None is the first that is called so.
        draws: of the latent point of each.
        seed: of the draws.

    Returns:
        columns row, smiles, log_likelihood.
    """
    rows = _read_molecules(file, column)
    bounds = load(model).log_likelihood([row.usable_smiles for row in rows], draws=draws, seed=seed)
    return _build_table(rows, log_likelihood=bounds)


def decode_file(
    file: Path, model: Path, *, draws: int = 1, temperature: float = 0.0, seed: int = 0, max_tokens: int | None = None
) -> pd.DataFrame:
    """Decode the latent points of a file.

    Args:
        file: its columns mu_0 … (as `encode_file` writes them) or z_0 … are the points. A row without values has an
            empty SMILES.
        model: folder, or pretrained:NAME.
        draws: molecules for each point.
        temperature: 0 takes the likeliest token at each step.
        seed: of the tokens.
        max_tokens: longest string; None: the model's length.

    Returns:
        columns row, draw, smiles, finished (false: cut at `max_tokens`), `draws` rows for each point.

    Raises:
        DataError: the file has no such columns, or not as many as the model has latent dimensions; or its column
            `model_id` names another model.
    """
    loaded, table = load(model), read_table(file)
    _check_model_id(file, table, loaded)
    points = _read_points(file, table, loaded.latent_dim)
    has_values = np.isfinite(points).all(1)
    smiles, finished = (np.full((len(points), draws), value, dtype=object) for value in ("", None))
    repeated = np.repeat(points[has_values], draws, axis=0)
    if len(repeated):
        decoded = loaded.decode_to_table(repeated, temperature=temperature, seed=seed, max_tokens=max_tokens)
        smiles[has_values] = decoded["smiles"].to_numpy().reshape(-1, draws)
        finished[has_values] = decoded["finished"].to_numpy().reshape(-1, draws)
    rows, draw = np.repeat(np.arange(1, len(points) + 1), draws), np.tile(np.arange(1, draws + 1), len(points))
    columns = {"row": rows, "draw": draw, "smiles": smiles.ravel(), "finished": finished.ravel()}
    return pd.DataFrame(columns).astype({"finished": "boolean"})


def _check_model_id(file: Path, table: pd.DataFrame, model: Model) -> None:
    """Refuse latent points of another model: they would decode to any molecules."""
    if "model_id" not in table:
        return
    if others := sorted(set(table["model_id"].dropna().astype(str)) - {model.id}):
        raise DataError(
            f"{file}: its column model_id says that the points are of model {others[0]}, and this one is {model.id}. "
            "Give the model that encoded them."
        )


def _read_points(file: Path, table: pd.DataFrame, latent_dim: int) -> np.ndarray:
    """Read the latent points of a table, (n, latent_dim) float32."""
    size = f"the model has {latent_dim} latent dimensions."
    kind = next((kind for kind in ("z", "mu") if f"{kind}_0" in table), None)
    if kind is None:
        raise DataError(f"{file}: no column z_0 or mu_0; {size}")
    names = [f"{kind}_{k}" for k in range(latent_dim)]
    if missing := [name for name in names if name not in table]:
        raise DataError(f"{file}: no column {missing[0]}; {size}")
    if (next_name := f"{kind}_{latent_dim}") in table:
        raise DataError(f"{file}: a column {next_name}, but {size}")
    try:
        points: np.ndarray = table[names].to_numpy(np.float32)
    except (TypeError, ValueError) as err:
        raise DataError(f"{file}: columns {kind}_0 … hold what is no number ({err}).") from None
    return points


def interpolate_molecules(
    start: str, end: str, model: Path, steps: int = 8, *, max_tokens: int | None = None
) -> pd.DataFrame:
    """Decode molecules on the path from one to another: columns step, smiles, finished (false: cut at `max_tokens`).

    Args:
        start: SMILES.
        end: SMILES.
        model: folder, or pretrained:NAME.
        steps: points, both ends included.
        max_tokens: longest string; None: the model's length.
    """
    loaded = load(model)
    table = loaded.decode_to_table(loaded.compute_path(start, end, steps), max_tokens=max_tokens)
    return table.assign(step=range(1, steps + 1))[["step", "smiles", "finished"]]


def sample_neighbors(
    smiles: str, model: Path, n: int = 100, radius: float = 0.5, *, seed: int = 0, max_tokens: int | None = None
) -> pd.DataFrame:
    """Decode points near a molecule: columns smiles, frequency, similarity, finished, see `molvae.api.Model.neighbors`.

    Args:
        smiles: the molecule.
        model: folder, or pretrained:NAME.
        n: points.
        radius: of the points, in widths of the molecule's posterior.
        seed: of the points.
        max_tokens: longest string; None: the model's length.
    """
    return load(model).neighbors(smiles, n, radius, seed=seed, max_tokens=max_tokens)


def predict_property(
    file: Path, target: str, model: Path, column: str | None = None, *, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict a property of each molecule of a file from its latent point.

    Args:
        file: molecules, with the property in a column; rows without a number are predicted.
        target: name of that column.
        model: folder, or pretrained:NAME.
        column: column of the SMILES; None is the first that is called so.
        seed: of the folds.

    Returns:
        columns row, smiles, value, predicted: rows with a value by a regression that has not seen them, the others by
        that of all values; and how good it is, as `molvae.latent.property_regression.Predictor.scores`.

    Raises:
        DataError: the file has no such column.
    """
    if not (names := read_column_names(file, column)):
        raise DataError(f"{file}: a file without a header has no columns; give a table with a column {target!r}.")
    if target not in names:
        raise DataError(f"{file}: no column {target!r}.{suggest_nearest(target, names)}")
    rows = _read_molecules(file, column, target)
    texts = pd.Series([row.split or None for row in rows], dtype=object)  # the reader gives the target as the split
    values = pd.to_numeric(texts, errors="coerce").to_numpy(float)
    if len(no_numbers := texts[np.isnan(values) & texts.notna()]):
        log.warning(
            "%s: %d of %d values in column %r are text and count as missing (row %d: %r). Write numbers with a decimal "
            "point, without signs such as > or a unit.",
            file, len(no_numbers), texts.count(), target, no_numbers.index[0] + 1, no_numbers.iloc[0],
        )  # fmt: skip
    predictor = load(model).fit_predictor([row.usable_smiles or "" for row in rows], values, seed=seed)
    predicted = predictor.predict_at(predictor.points)
    predicted[predictor.rows] = predictor.out_of_fold
    return _build_table(rows, value=values, predicted=predicted), predictor.scores


def _read_molecules(file: Path, column: str | None, split_column: str = SPLIT_COLUMN) -> list[Row]:
    """All rows of a file, of which one at least is a molecule."""
    rows = list(read_rows(file, find_smiles_column(file, column), split_column))
    require_a_molecule(file, rows)
    for number, row in enumerate(rows, 1):
        if row.problem:
            log.warning("%s: row %d, %r: %s", file, number, row.smiles, row.problem)
    return rows


def check_table_path(out: str) -> None:
    """Check that a table can be written to a path, before anything is computed.

    Raises:
        MolvaeError: the name ends in neither .csv nor .parquet, and is not -.
    """
    if not has_suffix(out, TABLE_SUFFIXES):
        raise MolvaeError(f"--out {out}: give a name that ends in .csv or .parquet, or - for stdout.")


def write_table(table: pd.DataFrame, out: str) -> None:
    """Write a table to a .csv or .parquet file, whole or not at all, or to stdout.

    In CSV, a text that a spreadsheet would take for a formula gets an apostrophe, which `read_table` removes.
    """
    if out == "-":
        print(protect_table(table).to_csv(index=False), end="")
        return
    with atomic_write(Path(out)) as temporary:
        if Path(out).suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            protect_table(table).to_csv(temporary, index=False)


def _build_table(rows: Sequence[Row], **columns: np.ndarray) -> pd.DataFrame:
    """Make a row for each, with its number and its text as in the file."""
    return pd.DataFrame({"row": range(1, len(rows) + 1), "smiles": [row.smiles for row in rows], **columns})


def read_table(file: Path) -> pd.DataFrame:
    """Read all columns of a file, a row for each of its rows.

    Raises:
        DataError: it cannot be read, or a row is damaged.
    """
    names = read_column_names(file)
    if not names:
        raise DataError(f"{file}: a file without a header has no columns; give a table, .csv, .tsv or .parquet.")
    if problems := [(number, row.problem) for number, row in enumerate(read_rows(file, names[0]), 1) if row.problem]:
        raise DataError(f"{file}: row {problems[0][0]} is damaged: {problems[0][1]}. Correct or remove it.")
    if find_suffix(file.name) == ".parquet":
        table = pd.read_parquet(file)
    else:
        encoding, delimiter, n_skipped = find_layout(file, names[0])
        has_quotes = delimiter not in {"\t", WHITE_SPACE}
        table = pd.read_csv(
            file,
            sep=r"\s+" if delimiter == WHITE_SPACE else delimiter,
            quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE,
            encoding=encoding,
            encoding_errors="backslashreplace",
            dtype=TEXT_COLUMNS,
            skip_blank_lines=False,
            skiprows=n_skipped,
            skipinitialspace=True,
        )
        if find_suffix(file.name) == ".csv":
            table = restore_table(table)
    return table.rename(columns=lambda name: str(name).strip().strip('"'))
