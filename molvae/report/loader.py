"""What the stages of an experiment left on disk, read for the report. A file that is not there is noted, not fatal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molvae.errors import DataError
from molvae.latent.projections import COORDINATES, PROPERTIES
from molvae.runtime.files import read_json

Columns = tuple[str, ...]
BOOKS = {"featurize": "tokens", "train": "model", "sample": "samples", "validate": "validation"}  # stage: folder
MOLECULE_NUMBERS = (*PROPERTIES, "index", "log_probability", "largest_ring", "radical_electrons", "charge")
MOLECULE_CLAIMS = ("is_valid", "is_first", "is_novel")
MOLECULE_TEXTS = ("smiles", "reason", "oddities", "alerts")
HISTORY_NUMBERS = (
    "epoch", "step", "seconds", "molecules_per_s", "kl_weight", "learning_rate", "train_loss_nats",
    "train_reconstruction_nats", "train_kl_nats", "valid_loss_nats", "valid_reconstruction_nats", "valid_kl_nats",
    "valid_token_accuracy", "valid_free_token_accuracy", "valid_exact_reconstruction", "active_units",
    "mutual_information_nats",
)  # fmt: skip
DIMENSION_NUMBERS = ("epoch", "dimension", "kl_nats")


@dataclass(frozen=True)
class Experiment:
    """The files of one experiment; what is missing is empty here and named in `missing`."""

    name: str
    dataset: dict[str, Any]
    books: dict[str, dict[str, Any]]  # stage -> books, {} if there are none
    model: dict[str, Any]
    metrics: dict[str, Any]
    prior: dict[str, Any]
    latent: dict[str, Any]
    history: pd.DataFrame
    dimensions: pd.DataFrame
    molecules: pd.DataFrame
    reference: pd.DataFrame
    rejected: pd.DataFrame
    maps: pd.DataFrame
    missing: tuple[str, ...]


def read_experiment(folder: Path, dataset_books: Path) -> Experiment:
    """Read what the report shows.

    Raises:
        DataError: the folder is not there, holds none of the files, or one of them cannot be read.
    """
    missing: list[str] = []

    def json_at(path: Path) -> dict[str, Any]:
        return read_json(path) if _is_there(path, folder, missing) else {}

    def table_at(relative: str, numbers: Columns = (), claims: Columns = (), texts: Columns = ()) -> pd.DataFrame:
        path = folder / relative
        frame = _table(path) if _is_there(path, folder, missing) else pd.DataFrame()
        return _typed(frame, numbers, claims, texts)

    books = {stage: json_at(folder / name / "books.json") for stage, name in BOOKS.items()}
    experiment = Experiment(
        name=folder.resolve().name,
        dataset=json_at(dataset_books),
        books=books,
        model=json_at(folder / "model/model.json"),
        metrics=json_at(folder / "validation/metrics.json"),
        prior=json_at(folder / "model/prior.json"),
        latent=json_at(folder / "latent/card.json"),
        history=table_at("model/history.csv", HISTORY_NUMBERS),
        dimensions=table_at("model/dimensions.csv", DIMENSION_NUMBERS),
        molecules=table_at(
            "validation/molecules.parquet",
            MOLECULE_NUMBERS,
            MOLECULE_CLAIMS,
            ("smiles", "reason", "oddities", "alerts"),
        ),
        reference=table_at("validation/reference.parquet", PROPERTIES, (), ("smiles",)),
        rejected=table_at("tokens/rejected.parquet", ("row",), (), ("smiles", "reason", "detail")),
        maps=table_at("latent/maps.parquet", (*PROPERTIES, *COORDINATES), (), ("smiles",)),
        missing=tuple(missing),
    )
    if not any((experiment.model, experiment.metrics, *books.values())):
        raise DataError(f"{folder}: holds no results of a molvae experiment. Give the folder that `model/` lies in.")
    return experiment


def _is_there(path: Path, folder: Path, missing: list[str]) -> bool:
    if not path.is_file():
        missing.append(str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name)
    return path.is_file()


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError) as err:  # pandas and pyarrow: empty, truncated or of another format
        raise DataError(f"{path}: not a table ({err}). Delete it and run the stage that writes it again.") from err


def _typed(frame: pd.DataFrame, numbers: Columns, claims: Columns, texts: Columns) -> pd.DataFrame:
    """The named columns: numbers as floats (NaN where unknown or infinite), claims as bools (unknown is False)."""
    columns: dict[str, Any] = {}
    empty = pd.Series(np.nan, index=frame.index)
    for name in numbers:
        found = pd.to_numeric(frame.get(name, empty), errors="coerce")
        columns[name] = found.astype("float64").replace([np.inf, -np.inf], np.nan)
    for name in claims:
        columns[name] = frame.get(name, empty).map(lambda value: pd.notna(value) and bool(value == 1)).astype(bool)
    for name in texts:
        columns[name] = frame.get(name, empty).map(lambda value: "" if pd.isna(value) else str(value)).astype(object)
    return pd.DataFrame(columns, index=frame.index)
