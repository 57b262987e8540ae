"""Rows of a data set to rows of a shard: each is standardised, tokenised and given a split by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow

from molvae.chemistry.descriptors import compute_descriptors
from molvae.chemistry.fragments import contains_second_compound
from molvae.chemistry.selfies_codec import extend_default_constraints, use_constraints
from molvae.chemistry.standardise import Standardised, parse_smiles, randomise_smiles, standardise_with_record
from molvae.data.parquet import open_table
from molvae.data.shards import SHARD_SCHEMA, UNKNOWN_SYMBOL
from molvae.data.splits import choose_split
from molvae.data.tokenizer import tokenize_molecule, tokenize_smiles
from molvae.errors import Rejected
from molvae.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from molvae.config import FeaturizeSettings


class RowRules(NamedTuple):
    """What decides how a row is featurised: settings, the splits the data name, and the symbols that are allowed."""

    settings: FeaturizeSettings
    given_splits: tuple[str, ...]
    allowed_symbols: frozenset[str] | None  # None: all


FeaturizeTask = tuple[Sequence[int], Path, int, RowRules]  # positions in a row group, file, row group, rules


def featurize_row_group(task: FeaturizeTask) -> tuple[pyarrow.Table, list[str]]:
    """Featurise rows of one row group of a data set.

    Returns:
        a table of SHARD_SCHEMA rows, and the symbols that its ids are positions in.
    """
    positions, dataset, group, rules = task
    symbols: dict[str, int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in SHARD_SCHEMA.names}
    rows = open_table(dataset).read_row_group(group).to_pylist()
    with use_constraints(extend_default_constraints([])):  # once for all rows: it takes a tenth of the time of a row
        for position in positions:
            for name, value in zip(SHARD_SCHEMA.names, _featurize_row(rows[position], rules, symbols), strict=True):
                columns[name].append(value)
    return pyarrow.table(columns, schema=SHARD_SCHEMA), list(symbols)


def reject_row(task: FeaturizeTask, rejection: Rejected) -> tuple[pyarrow.Table, list[str]]:
    """Make the result of `featurize_row_group` for one row that is rejected."""
    [position], dataset, group, _ = task
    row = open_table(dataset).read_row_group(group).slice(position, 1).to_pylist()[0]
    values = _fill_rejected_row(row, rejection)
    columns = {name: [value] for name, value in zip(SHARD_SCHEMA.names, values, strict=True)}
    return pyarrow.table(columns, schema=SHARD_SCHEMA), []


def _fill_rejected_row(row: dict[str, Any], rejection: Rejected) -> tuple[Any, ...]:
    before = row["row"], row["smiles"], row["split"], rejection.reason, rejection.detail
    return *before, *[None] * (len(SHARD_SCHEMA) - len(before))


def _featurize_row(row: dict[str, Any], rules: RowRules, symbols: dict[str, int]) -> tuple[Any, ...]:
    """One row as the values of SHARD_SCHEMA; new symbols are added to `symbols`."""
    settings = rules.settings
    try:
        molecule, string = _tokenize_row(row, rules)
    except Rejected as rejection:
        return _fill_rejected_row(row, rejection)
    smiles, dropped = molecule.smiles, molecule.dropped
    digest = hashlib.blake2b(smiles.encode(), digest_size=16).digest()
    split = choose_split(
        row["split"], int.from_bytes(digest[8:], "big") / 2**64, rules.given_splits,
        settings.valid_fraction, settings.test_fraction,
    )  # fmt: skip
    augmentations: list[list[str]] = []
    fallbacks = 0
    if split == "train" and settings.augmentations:
        augmentations, fallbacks = _make_augmentations(smiles, string, rules)
    ids, *augmentation_ids = (
        [symbols.setdefault(symbol, len(symbols)) for symbol in tokens] for tokens in (string, *augmentations)
    )
    key, properties = int.from_bytes(digest[:8], "big"), _compute_properties(smiles, settings.properties)
    is_mixture = contains_second_compound(dropped) if dropped else None
    losses = ".".join(dropped) or None, is_mixture, molecule.unmarked_centres
    return row["row"], smiles, split, None, None, key, ids, augmentation_ids, fallbacks, properties, *losses


def _tokenize_row(row: dict[str, Any], rules: RowRules) -> tuple[Standardised, list[str]]:
    """Convert a row to a standardised molecule and tokens; one that does not follow the rules is Rejected."""
    settings = rules.settings
    if row["problem"]:
        raise Rejected(row["problem"])
    molecule = standardise_with_record(
        row["smiles"],
        largest_fragment=settings.largest_fragment,
        neutralise=settings.neutralise,
        stereo=settings.stereo,
    )
    string = tokenize_molecule(molecule.smiles)
    if len(string) > settings.max_tokens:
        raise Rejected("too_long", f"{len(string)} symbols, featurize.max_tokens is {settings.max_tokens}")
    allowed = rules.allowed_symbols
    if allowed is not None and (unknown := sorted(set(string) - allowed)):
        raise Rejected(UNKNOWN_SYMBOL, ", ".join(unknown))
    return molecule, string


def _compute_properties(smiles: str, names: Sequence[str]) -> list[float]:
    """Descriptors of a molecule by name."""
    if not names:
        return []
    descriptors = compute_descriptors(parse_smiles(smiles))
    return [descriptors[name] for name in names]


def _make_augmentations(smiles: str, canonical: list[str], rules: RowRules) -> tuple[list[list[str]], int]:
    """Tokens of the augmentations of a molecule, and how many of them had to be its canonical ones."""
    n, allowed = rules.settings.augmentations, rules.allowed_symbols
    augmentations = []
    for randomised in randomise_smiles(smiles, n, derive_seed(0, "variants", smiles)):
        try:
            string = tokenize_smiles(randomised)
        except Rejected:
            continue
        if len(string) <= rules.settings.max_tokens and (allowed is None or allowed.issuperset(string)):
            augmentations.append(string)
    fallbacks = n - len(augmentations)
    return augmentations + [canonical] * fallbacks, fallbacks


def renumber_ids(table: pyarrow.Table, ids: np.ndarray) -> pyarrow.Table:
    """Replace each id k in a table of SHARD_SCHEMA rows by ids[k]."""

    def renumber(column: pyarrow.Array) -> pyarrow.Array:
        if column.type == pyarrow.uint16():
            return pyarrow.array(ids[column.to_numpy()], column.type)
        return pyarrow.ListArray.from_arrays(column.offsets, renumber(column.flatten()), mask=column.is_null())

    for name in ("ids", "augmentations"):
        column = renumber(table.column(name).combine_chunks())
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table
