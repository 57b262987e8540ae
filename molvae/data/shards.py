"""Block files: what `featurize` makes of the rows of a data set, a file for each share, read back in bounded memory.

A block numbers its symbols by itself, in the order it met them; the file's metadata names them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

BATCH_ROWS = 16_384  # rows of blocks that are in memory at once
DUPLICATE_PASS_ROWS = 4_000_000  # rows whose keys are sorted at once to find duplicates: 100 MB
UNKNOWN = "unknown_symbol"  # reason of molecules that the model to start from has no symbol for
BLOCK = pyarrow.schema(
    {
        "row": pyarrow.int64(),
        "smiles": pyarrow.string(),  # canonical if kept, else as it came
        "split": pyarrow.string(),
        "reason": pyarrow.string(),  # null if kept
        "detail": pyarrow.string(),
        "key": pyarrow.uint64(),  # hash of the canonical SMILES
        "ids": pyarrow.list_(pyarrow.uint16()),  # positions in the block's own list of symbols
        "variants": pyarrow.list_(pyarrow.list_(pyarrow.uint16())),  # likewise; empty but for training molecules
        "replaced": pyarrow.uint8(),  # variants that are the canonical string because the random one did not do
        "properties": pyarrow.list_(pyarrow.float32()),  # as featurize.properties names them
    }
)


def batches(blocks: Sequence[Path], columns: list[str], strings: int = 1) -> Iterator[pyarrow.RecordBatch]:
    """The rows of all blocks in order, some columns of them."""
    for block in blocks:
        yield from pyarrow.parquet.ParquetFile(block).iter_batches(max(1, BATCH_ROWS // strings), columns=columns)


def symbols_in(block: Path) -> list[str]:
    """What the ids of a block are positions in."""
    text = metadata(block, "symbols")
    return text.split("\n") if text else []


def metadata(block: Path, name: str) -> str:
    """What the one who wrote a block says of all of it."""
    return pyarrow.parquet.ParquetFile(block).metadata.metadata[name.encode()].decode()


def read_rows(
    blocks: Sequence[Path], kept: np.ndarray, columns: list[str], strings: int = 1
) -> Iterator[tuple[list[str], pyarrow.RecordBatch, pyarrow.RecordBatch]]:
    """All rows in order: the symbols that ids are positions in, rows that are kept, rows that are not.

    Args:
        strings: how many strings a row holds in these columns; with more, fewer rows are read at once.
    """
    start = 0
    for block in blocks:
        own = symbols_in(block)
        for batch in batches([block], columns, strings):
            mask = kept[start : start + len(batch)]
            start += len(batch)
            yield own, batch.filter(pyarrow.array(mask)), batch.filter(pyarrow.array(~mask))


def with_reason(batch: pyarrow.RecordBatch) -> pyarrow.Table:
    """Rows that are not kept; those without a reason of their own are duplicates of an earlier row."""
    table = pyarrow.Table.from_batches([batch])
    for name, value in (("detail", "an earlier row is the same molecule"), ("reason", "duplicate")):
        filled = pyarrow.compute.if_else(pyarrow.compute.is_null(table.column("reason")), value, table.column(name))
        table = table.set_column(table.schema.get_field_index(name), name, filled)
    return table


def first_of_each(blocks: Sequence[Path]) -> np.ndarray:
    """For each row of all blocks whether it is kept: it was not rejected and no row before it is the same molecule.

    Keys are 64-bit hashes: at ten million molecules one false duplicate is to be expected in 370 000 runs.
    """
    rows = sum(pyarrow.parquet.ParquetFile(block).metadata.num_rows for block in blocks)
    passes = -(-rows // DUPLICATE_PASS_ROWS)
    kept = np.zeros(rows, dtype=bool)
    for number in range(passes):
        keys, places = _keys(blocks, lambda key: key % passes == number)  # noqa: B023
        _, first = np.unique(keys, return_index=True)
        kept[places[first]] = True
    return kept


def _keys(blocks: Sequence[Path], wanted: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the rows that were not rejected and whose key is wanted, and their places among all rows."""
    keys, places, start = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
    for batch in batches(blocks, ["key"]):
        column = batch.column("key")
        there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        own = column.drop_null().to_numpy()
        mine = wanted(own)
        keys.append(own[mine])
        places.append(start + there[mine])
        start += len(batch)
    return np.concatenate(keys), np.concatenate(places)


def unknown_symbols(blocks: Sequence[Path]) -> Counter[str]:
    """Molecules that were rejected for a symbol, by symbol."""
    found: Counter[str] = Counter()
    for batch in batches(blocks, ["reason", "detail"]):
        gone = batch.filter(pyarrow.compute.equal(batch.column("reason"), UNKNOWN))
        found.update(symbol for detail in gone.column("detail").to_pylist() for symbol in detail.split(", "))
    return found


def reasons(blocks: Sequence[Path]) -> Counter[str | None]:
    """Rows by the reason for which they were rejected; None: by none."""
    return Counter(reason for batch in batches(blocks, ["reason"]) for reason in batch.column("reason").to_pylist())
