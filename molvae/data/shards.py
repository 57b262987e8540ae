"""Shard files: what `featurize` makes of the rows of a data set, read back in bounded memory.

A shard numbers its symbols by itself, in the order it met them; the file's metadata names them.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow
import pyarrow.compute

from molvae.data.parquet import open_table

BATCH_ROWS = 16_384  # rows that are in memory at once
DUPLICATE_PASS_ROWS = 4_000_000  # rows whose keys are sorted at once to find duplicates: 100 MB
FRAGMENT_PASS_MOLECULES = 500_000  # molecules whose dropped fragments are counted at once: 200 MB if all differ
MAX_FRAGMENTS = 20  # dropped fragments that are named
UNKNOWN_SYMBOL = "unknown_symbol"  # reason of molecules with symbols that the model to fine-tune lacks
SHARD_SCHEMA = pyarrow.schema(
    {
        "row": pyarrow.int64(),
        "smiles": pyarrow.string(),  # canonical if kept, else as it came
        "split": pyarrow.string(),
        "reason": pyarrow.string(),  # null if kept
        "detail": pyarrow.string(),
        "key": pyarrow.uint64(),  # hash of the canonical SMILES
        "ids": pyarrow.list_(pyarrow.uint16()),  # positions in the shard's own list of symbols
        "augmentations": pyarrow.list_(pyarrow.list_(pyarrow.uint16())),  # likewise; of training molecules only
        "fallbacks": pyarrow.uint8(),  # augmentations that are the canonical string because the random one failed
        "properties": pyarrow.list_(pyarrow.float32()),  # as featurize.properties names them
        "dropped": pyarrow.string(),  # the fragments that were dropped, as a SMILES; null if none
        "is_mixture": pyarrow.bool_(),  # whether one of them may be a compound of its own; null if none was dropped
        "unmarked_centres": pyarrow.uint16(),  # centres that lost their mark: their absolute configuration is not known
    }
)


def iter_batches(shards: Sequence[Path], columns: list[str], strings_per_row: int = 1) -> Iterator[pyarrow.RecordBatch]:
    """Read some columns of the rows of all shards in order."""
    for shard in shards:
        rows = max(1, BATCH_ROWS // strings_per_row)
        yield from open_table(shard).iter_batches(rows, columns=columns)


def read_symbols(shard: Path) -> list[str]:
    """Read the symbols that the ids of a shard are positions in."""
    text = read_metadata(shard, "symbols")
    return text.split("\n") if text else []


def read_metadata(shard: Path, name: str) -> str:
    """Read an entry of a shard's metadata."""
    text: bytes = open_table(shard).metadata.metadata[name.encode()]
    return text.decode()


def iter_rows(
    shards: Sequence[Path], kept: np.ndarray, columns: list[str], strings_per_row: int = 1
) -> Iterator[tuple[list[str], pyarrow.RecordBatch, pyarrow.RecordBatch]]:
    """Read all rows in order: the symbols that ids are positions in, rows that are kept, rows that are not.

    Args:
        shards: files, in order.
        kept: (rows,) bool.
        columns: names of those to read.
        strings_per_row: in these columns; with more, fewer rows are read at once.
    """
    start = 0
    for shard in shards:
        symbols = read_symbols(shard)
        for batch in iter_batches([shard], columns, strings_per_row):
            mask = kept[start : start + len(batch)]
            start += len(batch)
            yield symbols, batch.filter(pyarrow.array(mask)), batch.filter(pyarrow.array(~mask))


def fill_duplicate_reasons(batch: pyarrow.RecordBatch) -> pyarrow.Table:
    """Give a reason to rows that are not kept and have none: they are duplicates of an earlier row."""
    table = pyarrow.Table.from_batches([batch])
    for name, value in (("detail", "an earlier row is the same molecule"), ("reason", "duplicate")):
        filled = pyarrow.compute.if_else(pyarrow.compute.is_null(table.column("reason")), value, table.column(name))
        table = table.set_column(table.schema.get_field_index(name), name, filled)
    return table


def compute_first_occurrence_mask(shards: Sequence[Path]) -> np.ndarray:
    """Mark the first row of each distinct molecule, among the rows of all shards that were not rejected.

    Keys are 64-bit hashes: at ten million molecules one false duplicate is to be expected in 370 000 runs.

    Returns:
        (rows,) bool.
    """
    n_rows = sum(open_table(shard).metadata.num_rows for shard in shards)
    passes = -(-n_rows // DUPLICATE_PASS_ROWS)
    kept = np.zeros(n_rows, dtype=bool)
    for number in range(passes):
        keys, rows = _collect_keys(shards, lambda key: key % passes == number)  # noqa: B023
        _, first = np.unique(keys, return_index=True)
        kept[rows[first]] = True
    return kept


def _collect_keys(
    shards: Sequence[Path], is_selected: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Collect the keys of rows that were not rejected and whose key is selected, and their places among all rows."""
    keys, places, start = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
    for batch in iter_batches(shards, ["key"]):
        column = batch.column("key")
        not_rejected = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        batch_keys = column.drop_null().to_numpy()
        selected = is_selected(batch_keys)
        keys.append(batch_keys[selected])
        places.append(start + not_rejected[selected])
        start += len(batch)
    return np.concatenate(keys), np.concatenate(places)


def count_losses(shards: Sequence[Path], kept: np.ndarray) -> dict[str, Any]:
    """Count what the kept molecules lost when they were standardised.

    Args:
        shards: files, in order.
        kept: (rows,) bool.

    Returns:
        `dropped_fragments`: the molecules beside which fragments were dropped, the mixtures among them, and the
        MAX_FRAGMENTS fragments that were dropped beside most molecules; `unmarked_centres`: the molecules with centres
        that lost their mark, and these centres.
    """
    counts: Counter[str] = Counter()
    for _, batch, _ in iter_rows(shards, kept, ["is_mixture", "unmarked_centres"]):
        is_mixture = batch.column("is_mixture").drop_null()
        centres = batch.column("unmarked_centres").to_numpy()
        counts["dropped"] += len(is_mixture)
        counts["mixtures"] += is_mixture.true_count
        counts["unmarked"] += int(np.count_nonzero(centres))
        counts["centres"] += int(centres.sum())
    most_frequent = _count_dropped_fragments(shards, kept, passes=-(-counts["dropped"] // FRAGMENT_PASS_MOLECULES))
    return {
        "dropped_fragments": {
            "molecules": counts["dropped"],
            "mixtures": counts["mixtures"],
            "most_frequent": [{"smiles": smiles, "molecules": count} for smiles, count in most_frequent],
        },
        "unmarked_centres": {"molecules": counts["unmarked"], "centres": counts["centres"]},
    }


def _count_dropped_fragments(shards: Sequence[Path], kept: np.ndarray, passes: int) -> list[tuple[str, int]]:
    """Count the molecules that each fragment was dropped beside; the most frequent, by number, then by SMILES."""
    most_frequent: list[tuple[str, int]] = []
    for number in range(passes):
        counts: Counter[str] = Counter()
        for _, batch, _ in iter_rows(shards, kept, ["dropped"]):
            for entry in batch.column("dropped").drop_null().value_counts().to_pylist():
                for fragment in {*entry["values"].split(".")}:
                    if crc32(fragment.encode()) % passes == number:
                        counts[fragment] += entry["counts"]
        candidates = itertools.chain(most_frequent, counts.items())
        most_frequent = heapq.nsmallest(MAX_FRAGMENTS, candidates, key=lambda item: (-item[1], item[0]))
    return most_frequent


def count_unknown_symbols(shards: Sequence[Path]) -> Counter[str]:
    """Count the molecules that were rejected for a symbol, by symbol."""
    counts: Counter[str] = Counter()
    for batch in iter_batches(shards, ["reason", "detail"]):
        rejected = batch.filter(pyarrow.compute.equal(batch.column("reason"), UNKNOWN_SYMBOL))
        counts.update(symbol for detail in rejected.column("detail").to_pylist() for symbol in detail.split(", "))
    return counts


def count_reasons(shards: Sequence[Path]) -> Counter[str | None]:
    """Count the rows by the reason for which they were rejected; None: they were not."""
    return Counter(
        reason for batch in iter_batches(shards, ["reason"]) for reason in batch.column("reason").to_pylist()
    )
