"""Any file of SMILES as one stream of rows: .smi, .csv, .tsv, .parquet, each but parquet also as .gz.

Rows are numbered from 1, a header not counted. Every record of the file comes out as a row, readable or not.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TextIO

import pyarrow
import pyarrow.parquet

from molvae.errors import DataError, did_you_mean
from molvae.runtime.files import replacing

ROW_GROUP = 2000  # rows; the unit in which later stages share work among cores
SPLIT = "SPLIT"
SMILES_COLUMNS = ("SMILES", "smiles", "Smiles", "canonical_smiles")
SUFFIXES = (".smi", ".csv", ".tsv", ".parquet")


class EvenWriter:
    """Writes a parquet file in row groups of ROW_GROUP rows, whatever pieces the rows come in.

    The same rows give the same bytes.
    """

    def __init__(self, path: Path, schema: pyarrow.Schema) -> None:
        self.path, self.schema, self.waiting, self.rows = path, schema, [], 0

    def __enter__(self) -> EvenWriter:
        with ExitStack() as stack:
            self.file = stack.enter_context(
                pyarrow.parquet.ParquetWriter(stack.enter_context(replacing(self.path)), self.schema)
            )
            self.stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush(1)
        self.stack.__exit__(kind, error, trace)

    def write(self, table: pyarrow.Table) -> None:
        """Add rows."""
        self.waiting.append(table)
        self.rows += len(table)
        self._flush(ROW_GROUP)

    def _flush(self, least: int) -> None:
        while self.rows >= least:
            table = pyarrow.concat_tables(self.waiting).combine_chunks()
            self.file.write_table(table.slice(0, ROW_GROUP))
            rest = table.slice(ROW_GROUP)
            self.waiting, self.rows = [rest], len(rest)


class Row(NamedTuple):
    """One record: its text as it stands in the file, the split the file gives it, and why it is unreadable."""

    smiles: str
    split: str | None = None
    problem: str | None = None

    @property
    def readable(self) -> str | None:
        """Its SMILES; None where the record is damaged, whatever it holds."""
        return None if self.problem else self.smiles


def read_rows(path: Path, column: str, split_column: str = SPLIT) -> Iterator[Row]:
    """The rows of a file.

    Args:
        column: by name; .smi has none: there the SMILES ends at the first white space.
        split_column: by name; a file may do without one that is called SPLIT, but not without another.
    Raises:
        DataError: no such file or an unknown suffix, at once; no such column, no row, or a file its suffix belies,
            while it is read.
    """
    path = Path(path)
    kind = _kind(path)
    rows = _parquet(path, column, split_column) if kind == ".parquet" else _text(path, kind, column, split_column)
    return _at_least_one(path, rows)


def columns_of(path: Path) -> list[str]:
    """The names of a file's columns; none for .smi.

    Raises:
        DataError: as in `read_rows`.
    """
    kind = _kind(Path(path))
    try:
        if kind == ".parquet":
            return pyarrow.parquet.read_schema(path).names
        if kind == ".smi":
            return []
        with _open(Path(path)) as file:
            header = next(csv.reader(file, delimiter="\t" if kind == ".tsv" else ","), [])
        return [name.strip() for name in header]
    except (pyarrow.ArrowInvalid, OSError, EOFError, zlib.error, csv.Error) as err:
        raise DataError(f"{path}: cannot be read ({err}). Is it whole, and of the kind its name says?") from err


def smiles_column(path: Path, wanted: str | None = None) -> str:
    """The column of a file that holds the SMILES: the one wanted, or the first that is called so; "" for .smi.

    Raises:
        DataError: none is called so.
    """
    names = columns_of(path)
    if wanted or not names:
        return wanted or ""
    if found := next((name for name in SMILES_COLUMNS if name in names), None):
        return found
    raise DataError(f"{path}: which column holds the SMILES? Name one of {', '.join(names)} with --column.")


def _at_least_one(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{path}: the file holds no row. Give a file with at least one molecule.")


def _kind(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file. Check the path.")
    if (kind := kind_of(path.name)) is None:
        raise DataError(f"{path}: unknown kind of file. molvae reads {', '.join(SUFFIXES)}, text kinds also with .gz.")
    return kind


def kind_of(name: str) -> str | None:
    """Which of SUFFIXES a file's name ends in, .gz aside; None: in none."""
    name = name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def _text(path: Path, kind: str, column: str, split_column: str) -> Iterator[Row]:
    try:
        with _open(path) as file:
            if kind == ".smi":
                for line in file:
                    yield _row(*(line.split(maxsplit=1)[:1] or [""]))
            else:
                yield from _delimited(
                    path, csv.reader(file, delimiter="\t" if kind == ".tsv" else ",", strict=True), column, split_column
                )
    except (OSError, EOFError, zlib.error) as err:
        raise DataError(f"{path}: cannot be read ({err}). Is it whole, and of the kind its name says?") from err


def _open(path: Path) -> TextIO:
    """Text with any line ends and without byte-order mark; bytes that are no UTF-8 come through marked."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=None)


def _delimited(path: Path, records: Iterator[list[str]], column: str, split_column: str) -> Iterator[Row]:
    rows = 0
    try:
        header = next(records, None)
        if header is None:
            raise DataError(f"{path}: the file is empty. Give a file with a header and at least one molecule.")
        at, split_at = _positions(path, header, column, split_column)
        for record in records:
            rows += 1
            if not record:
                yield Row("")
            elif len(record) <= max(at, split_at):
                yield _row(",".join(record), problem="too_few_columns")
            else:
                yield _row(record[at], record[split_at] if split_at >= 0 else None)
    except csv.Error as err:
        raise DataError(f"{path}: row {rows + 1}: {err}. Is a quotation mark left open?") from err


def _positions(path: Path, header: list[str], column: str, split_column: str) -> tuple[int, int]:
    """Where the two columns stand; -1 for a split column that the file may do without."""
    names = [name.strip() for name in header]
    for name in (column, split_column):
        if name not in names and not (name == split_column == SPLIT):
            hint = did_you_mean(name, names)
            where = "--column on the command line, data.column and data.split_column in the config"
            raise DataError(f"{path}: no column {name!r}.{hint} Name one that is there ({where}).")
    return names.index(column), names.index(split_column) if split_column in names else -1


def _row(smiles: str, split: str | None = None, problem: str | None = None) -> Row:
    try:
        (smiles + (split or "")).encode("utf-8")
        return Row(smiles.strip(), split and split.strip(), problem)
    except UnicodeEncodeError:
        readable = smiles.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return Row(readable, None, "not_utf8")


def _parquet(path: Path, column: str, split_column: str) -> Iterator[Row]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        at, split_at = _positions(path, names, column, split_column)
        column, split_column = names[at], names[split_at]  # with the blanks that they may have at their ends
        columns = [column, split_column] if split_at >= 0 else [column]
        for batch in file.iter_batches(ROW_GROUP, columns=columns):
            splits = batch[split_column].to_pylist() if split_at >= 0 else [None] * len(batch)
            for smiles, split in zip(batch[column].to_pylist(), splits, strict=True):
                yield _row("" if smiles is None else str(smiles), None if split is None else str(split))
    except (pyarrow.ArrowInvalid, OSError) as err:
        raise DataError(f"{path}: cannot be read as parquet ({err}).") from err
