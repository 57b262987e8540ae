"""Shard files of `featurize`, read back in bounded memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from molvae.data import shards
from molvae.data.shards import SHARD_SCHEMA, UNKNOWN_SYMBOL

ROWS = [  # of a data set: SMILES, key of the molecule, reason and detail of a rejection
    ("CCO", 10, None, None),
    ("xx", None, "not_smiles", "RDKit cannot parse it"),
    ("CC", 20, None, None),
    ("CCO", 10, None, None),
    ("C[Xe]", None, UNKNOWN_SYMBOL, "[Xe], [Ne]"),
    ("CC", 20, None, None),
    ("N", 30, None, None),
    ("[Xe]", None, UNKNOWN_SYMBOL, "[Xe]"),
]
KEPT = [True, False, True, False, False, False, True, False]


@pytest.fixture
def paths(tmp_path):
    """Two shards of the rows, each with a list of symbols of its own."""
    files = []
    for number, (part, symbols) in enumerate([(ROWS[:3], ["[C]", "[O]"]), (ROWS[3:], [])]):
        columns = dict(zip(("smiles", "key", "reason", "detail"), zip(*part, strict=True), strict=True))
        arrays = {name: list(columns.get(name, [None] * len(part))) for name in SHARD_SCHEMA.names}
        metadata = {"symbols": "\n".join(symbols), "dataset": f"data {number}"}
        table = pyarrow.table(arrays, SHARD_SCHEMA).replace_schema_metadata(metadata)
        files.append(tmp_path / f"{number}.parquet")
        pyarrow.parquet.write_table(table, files[-1])
    return files


def test_metadata_and_symbols_are_read_from_each_shard(paths):
    assert [shards.read_symbols(path) for path in paths] == [["[C]", "[O]"], []]
    assert [shards.read_metadata(path, "dataset") for path in paths] == ["data 0", "data 1"]


def test_batches_hold_the_rows_of_all_shards_in_order_and_fewer_of_them_with_many_strings(paths, monkeypatch):
    monkeypatch.setattr(shards, "BATCH_ROWS", 4)
    for strings_per_row, most in ((1, 4), (2, 2), (9, 1)):
        batches = list(shards.iter_batches(paths, ["smiles", "reason"], strings_per_row))
        assert max(map(len, batches)) == most
        assert batches[0].schema.names == ["smiles", "reason"]
        assert [text for batch in batches for text in batch["smiles"].to_pylist()] == [row[0] for row in ROWS]


def test_rows_are_divided_into_kept_and_dropped_ones_with_the_symbols_of_their_shard(paths):
    parts = list(shards.iter_rows(paths, np.array(KEPT), ["smiles"]))
    assert [symbols for symbols, _, _ in parts] == [["[C]", "[O]"], []]
    assert [kept["smiles"].to_pylist() for _, kept, _ in parts] == [["CCO", "CC"], ["N"]]
    assert [dropped["smiles"].to_pylist() for _, _, dropped in parts] == [["xx"], ["CCO", "C[Xe]", "CC", "[Xe]"]]


@pytest.mark.parametrize("rows_per_pass", [1, 3, 100])
def test_first_occurrence_of_each_molecule_that_was_not_rejected_is_kept(paths, monkeypatch, rows_per_pass):
    monkeypatch.setattr(shards, "DUPLICATE_PASS_ROWS", rows_per_pass)
    assert shards.compute_first_occurrence_mask(paths).tolist() == KEPT
    assert shards.compute_first_occurrence_mask([]).tolist() == []


def test_dropped_rows_without_a_reason_are_duplicates(paths):
    *_, (_, _, dropped) = shards.iter_rows(paths, np.array(KEPT), ["smiles", "reason", "detail"])
    table = shards.fill_duplicate_reasons(dropped)
    assert table["reason"].to_pylist() == ["duplicate", UNKNOWN_SYMBOL, "duplicate", UNKNOWN_SYMBOL]
    details = ["an earlier row is the same molecule", "[Xe], [Ne]", "an earlier row is the same molecule", "[Xe]"]
    assert table["detail"].to_pylist() == details


def test_reasons_and_unknown_symbols_are_counted_over_all_shards(paths):
    assert shards.count_reasons(paths) == Counter({None: 5, UNKNOWN_SYMBOL: 2, "not_smiles": 1})
    assert shards.count_unknown_symbols(paths) == Counter({"[Xe]": 2, "[Ne]": 1})


def write_losses(path, losses) -> None:
    """Write a shard of rows that have lost these fragments, whether they were mixtures, and these centres."""
    columns = dict(zip(("dropped", "is_mixture", "unmarked_centres"), zip(*losses, strict=True), strict=True))
    arrays = {name: list(columns.get(name, [None] * len(losses))) for name in SHARD_SCHEMA.names}
    table = pyarrow.table(arrays, SHARD_SCHEMA).replace_schema_metadata({"symbols": ""})
    pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize("molecules_per_pass", [1, 2, 100])
def test_losses_of_the_kept_rows_of_all_shards_are_counted_in_any_number_of_passes(
    tmp_path, monkeypatch, molecules_per_pass
):
    monkeypatch.setattr(shards, "FRAGMENT_PASS_MOLECULES", molecules_per_pass)
    monkeypatch.setattr(shards, "MAX_FRAGMENTS", 3)
    files = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    write_losses(files[0], [("Cl", False, 0), (None, None, 2), ("Cl.O.O", False, 1), (None, None, None)])
    write_losses(files[1], [("C1CCCCCCCCC1.Cl", True, 0), ("O", False, 0), ("N", False, 0), ("[Na+]", False, 9)])
    kept = np.array([True, True, True, False, True, True, True, False])
    assert shards.count_losses(files, kept) == {
        "dropped_fragments": {
            "molecules": 5,
            "mixtures": 1,
            "most_frequent": [
                {"smiles": "Cl", "molecules": 3},
                {"smiles": "O", "molecules": 2},
                {"smiles": "C1CCCCCCCCC1", "molecules": 1},
            ],
        },
        "unmarked_centres": {"molecules": 2, "centres": 3},
    }
