"""The results of an experiment, read for the report. A file that is absent is named there, and is no error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molvae.chemistry.descriptor_table import CHARTED_DESCRIPTORS
from molvae.errors import DataError
from molvae.latent.projections import COORDINATES
from molvae.runtime.files import read_json

COUNT_FOLDERS = {"featurize": "tokens", "train": "model", "sample": "samples", "validate": "validation"}  # by stage
MOLECULE_NUMBERS = (*CHARTED_DESCRIPTORS, "index", "log_probability", "largest_ring", "radical_electrons", "charge")
MOLECULE_BOOLEANS = ("is_valid", "is_first", "is_novel")
MOLECULE_TEXTS = ("smiles", "reason", "structural_flags", "alerts")
PROJECTION_NUMBERS = (*CHARTED_DESCRIPTORS, *COORDINATES)
HISTORY_NUMBERS = (
    "epoch", "step", "seconds", "molecules_per_s", "kl_weight", "learning_rate", "train_loss_nats",
    "train_reconstruction_nats", "train_kl_nats", "valid_loss_nats", "valid_reconstruction_nats", "valid_kl_nats",
    "valid_token_accuracy", "valid_free_token_accuracy", "valid_exact_reconstruction", "active_units",
    "mutual_information_nats",
)  # fmt: skip
DIMENSION_NUMBERS = ("epoch", "dimension", "kl_nats")


@dataclass(frozen=True)
class Experiment:
    """The files of one experiment; what is absent is empty here and named in `missing`.

    Attributes:
        name: of its folder.
        dataset: the .json beside the data set, which `fetch` wrote.
        counts: counts.json of each stage, by the stage's name.
        model: the model card.
        metrics: metrics.json of `validate`.
        prior: prior.json.
        latent: the latent diagnostics.
        history: an epoch a row.
        dimensions: KL of each latent dimension, a row for each in each epoch.
        molecules: a sample a row.
        reference: a training molecule a row.
        rejected: a rejected input row a row.
        projections: a held-out molecule a row.
        missing: paths of absent files.
    """

    name: str
    dataset: dict[str, Any]
    counts: dict[str, dict[str, Any]]
    model: dict[str, Any]
    metrics: dict[str, Any]
    prior: dict[str, Any]
    latent: dict[str, Any]
    history: pd.DataFrame
    dimensions: pd.DataFrame
    molecules: pd.DataFrame
    reference: pd.DataFrame
    rejected: pd.DataFrame
    projections: pd.DataFrame
    missing: tuple[str, ...]


def load_experiment(folder: Path, dataset_counts: Path) -> Experiment:
    """Load what the report shows.

    Args:
        folder: of the experiment.
        dataset_counts: the .json beside its data set.

    Raises:
        DataError: the folder does not exist, holds none of the files, or one of them cannot be read.
    """
    missing: list[str] = []

    def load_json(path: Path) -> dict[str, Any]:
        return read_json(path) if _exists(path, folder, missing) else {}

    def load_table(
        name: str, numbers: tuple[str, ...], booleans: tuple[str, ...] = (), texts: tuple[str, ...] = ()
    ) -> pd.DataFrame:
        path = folder / name
        table = _read_table(path) if _exists(path, folder, missing) else pd.DataFrame()
        return _convert_columns(table, numbers, booleans, texts)

    counts = {stage: load_json(folder / name / "counts.json") for stage, name in COUNT_FOLDERS.items()}
    experiment = Experiment(
        name=folder.resolve().name,
        dataset=load_json(dataset_counts),
        counts=counts,
        model=load_json(folder / "model/model.json"),
        metrics=load_json(folder / "validation/metrics.json"),
        prior=load_json(folder / "model/prior.json"),
        latent=load_json(folder / "latent/diagnostics.json"),
        history=load_table("model/history.csv", HISTORY_NUMBERS),
        dimensions=load_table("model/dimensions.csv", DIMENSION_NUMBERS),
        molecules=load_table("validation/molecules.parquet", MOLECULE_NUMBERS, MOLECULE_BOOLEANS, MOLECULE_TEXTS),
        reference=load_table("validation/reference.parquet", CHARTED_DESCRIPTORS, texts=("smiles",)),
        rejected=load_table("tokens/rejected.parquet", ("row",), texts=("smiles", "reason", "detail")),
        projections=load_table("latent/projections.parquet", PROJECTION_NUMBERS, texts=("smiles",)),
        missing=tuple(missing),
    )
    if not any((experiment.model, experiment.metrics, *counts.values())):
        raise DataError(f"{folder}: holds no results of a molvae experiment. Give the folder that `model/` lies in.")
    return experiment


def _exists(path: Path, folder: Path, missing: list[str]) -> bool:
    if not path.is_file():
        missing.append(str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name)
    return path.is_file()


def _read_table(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv" and not path.read_bytes().endswith(b"\n"):
        raise DataError(f"{path}: its last line is cut off. Delete it and run the stage that writes it again.")
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError) as err:  # pandas and pyarrow: empty, truncated or of another format
        raise DataError(f"{path}: not a table ({err}). Delete it and run the stage that writes it again.") from err


def _convert_columns(
    table: pd.DataFrame, numbers: tuple[str, ...], booleans: tuple[str, ...], texts: tuple[str, ...]
) -> pd.DataFrame:
    """Select columns: numbers as floats (NaN where unknown or infinite), booleans (unknown is False), and texts."""
    columns: dict[str, Any] = {}
    empty = pd.Series(np.nan, index=table.index)
    for name in numbers:
        values = pd.to_numeric(table.get(name, empty), errors="coerce")
        columns[name] = values.astype("float64").replace([np.inf, -np.inf], np.nan)
    for name in booleans:
        columns[name] = table.get(name, empty).map(lambda value: pd.notna(value) and bool(value == 1)).astype(bool)
    for name in texts:
        columns[name] = table.get(name, empty).map(lambda value: "" if pd.isna(value) else str(value)).astype(object)
    return pd.DataFrame(columns, index=table.index)
