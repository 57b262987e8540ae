"""Any file of SMILES as one stream of rows: those of READABLE_SUFFIXES, each but parquet also as .gz.

Rows are numbered from 1, a header not counted. Every line of a text file becomes a row, readable or not. A record over
several lines is as many damaged rows, because a stray quotation mark looks the same.

Memory is bounded whatever a file holds: a row whose texts are too long is a damaged one, of which the start is kept.
"""

from __future__ import annotations

import csv
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from molvae.chemistry.standardise import is_molecule
from molvae.data.formats import READABLE_SUFFIXES, SMILES_SUFFIXES, find_suffix
from molvae.data.text_tables import (
    MAX_LINE,
    SMILES_COLUMNS,
    check_expansion,
    find_layout,
    is_cut,
    iter_lines,
    iter_records,
    open_text,
    read_smiles,
)
from molvae.errors import DataError, suggest_nearest
from molvae.runtime.files import atomic_write
from molvae.runtime.plain_text import restore_cell

ROW_GROUP = 2000  # rows; the unit in which later stages divide work among cores
MAX_TEXT = 20_000  # characters of a SMILES or a split; a group of rows is in memory at once
KEPT_TEXT = 1000  # characters of a damaged row that are kept for the list of rejected rows
PARQUET_BYTES = 100_000_000  # that a parquet file may expand to, however small it is: a page of it is in memory
TEXTS_AT_ONCE = 100  # of a parquet file; a hundred may be one long text that the file holds once
MAX_NAMES = 100  # columns that a message names or that are looked through for molecules
SPLIT_COLUMN = "SPLIT"
SPLIT_LIKE_NAME = re.compile(r"split|fold|partition|subset|^(data)?set$|^is_?(train|test|valid)", re.IGNORECASE)
READ_ERRORS = (pyarrow.ArrowException, OSError, EOFError, zlib.error, csv.Error, UnicodeError)


class RowGroupWriter:
    """Writes a parquet file in row groups of ROW_GROUP rows, whatever pieces the rows come in.

    The same rows give the same bytes.
    """

    def __init__(self, path: Path, schema: pyarrow.Schema) -> None:
        self.path, self.schema = path, schema
        self.pending: list[pyarrow.Table] = []
        self.n_pending = 0

    def __enter__(self) -> RowGroupWriter:
        with ExitStack() as stack:
            self.file = stack.enter_context(
                pyarrow.parquet.ParquetWriter(stack.enter_context(atomic_write(self.path)), self.schema)
            )
            self.stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush(at_least=1)
        self.stack.__exit__(kind, error, trace)

    def write(self, table: pyarrow.Table) -> None:
        """Add rows."""
        self.pending.append(table)
        self.n_pending += len(table)
        self._flush(at_least=ROW_GROUP)

    def _flush(self, at_least: int) -> None:
        while self.n_pending >= at_least:
            table = pyarrow.concat_tables(self.pending).combine_chunks()
            self.file.write_table(table.slice(0, ROW_GROUP))
            rest = table.slice(ROW_GROUP)
            self.pending, self.n_pending = [rest], len(rest)


class Row(NamedTuple):
    """One record: its text as it stands in the file, the split the file gives it, and why it is unreadable."""

    smiles: str
    split: str | None = None
    problem: str | None = None

    @property
    def usable_smiles(self) -> str | None:
        """Its SMILES; None where the record is damaged, whatever it holds."""
        return None if self.problem else self.smiles


def read_rows(path: Path, column: str, split_column: str = SPLIT_COLUMN) -> Iterator[Row]:
    """Read the rows of a file.

    Args:
        path: a file of one of READABLE_SUFFIXES.
        column: name of the SMILES column. A file of one of SMILES_SUFFIXES without a header has none: there a line
            begins with the SMILES; with a header, a usual name stands for one that is missing.
        split_column: name of the split column; a file may lack one that is called SPLIT, but not another. SPLIT also
            stands for `split` and `Split`.

    Raises:
        DataError: no such file or an unknown suffix, at once; no such column or two of its name, no row, or a file of
            another format than its suffix says, while it is read.
    """
    path = Path(path)
    if _require_suffix(path) == ".parquet":
        return _require_a_row(path, _iter_parquet_rows(path, column, split_column))
    return _require_a_row(path, _iter_text_rows(path, column, split_column))


def read_column_names(path: Path, column: str | None = None) -> list[str]:
    """Read the names of a file's columns; none for a file of SMILES without a header.

    Args:
        path: a file of one of READABLE_SUFFIXES.
        column: name of the SMILES column, if it is known: it helps to find the delimiter.

    Raises:
        DataError: as in `read_rows`.
    """
    path = Path(path)
    suffix = _require_suffix(path)
    try:
        if suffix == ".parquet":
            return [name.strip() for name in pyarrow.parquet.ParquetFile(path).schema_arrow.names]
        layout = find_layout(path, column)
        if layout.delimiter is None:
            return []
        with open_text(path, layout.encoding) as file:
            lines = islice(iter_lines(file), layout.n_skipped, None)
            header, _ = next(iter_records(lines, layout.delimiter), ([], []))
        return [name.strip() for name in header]
    except READ_ERRORS as err:
        raise _make_read_error(path, err) from err


def find_delimiter(path: Path, column: str | None = None) -> str | None:
    """Find what separates the fields of a file, see `molvae.data.text_tables.Layout`; None: it is parquet, or no table.

    Args:
        path: a file of one of READABLE_SUFFIXES.
        column: name of the SMILES column, if it is known.
    """
    return None if _require_suffix(path) == ".parquet" else find_layout(path, column).delimiter


def find_smiles_column(path: Path, column: str | None = None) -> str:
    """Find the column of a file that holds the SMILES: `column`, or the first of SMILES_COLUMNS; "" where it has none.

    Raises:
        DataError: none of its columns is called so.
    """
    names = read_column_names(path, column)
    if column or not names:
        return column or ""
    if known := next((name for name in SMILES_COLUMNS if name in names), None):
        return known
    listed = ", ".join(name[:KEPT_TEXT] for name in names[:MAX_NAMES])
    hint = _describe_molecule_in_header(names) or f"Name one of {listed} with --column."
    raise DataError(f"{path}: which column holds the SMILES? {hint}")


def find_split_column(names: Sequence[str], split_column: str = SPLIT_COLUMN) -> str | None:
    """Find the column that `read_rows` takes for the split; None: none.

    >>> find_split_column(["smiles", "Split"])
    'Split'
    """
    if split_column in names or split_column != SPLIT_COLUMN:
        return split_column
    return next((name for name in names if name.lower() == SPLIT_COLUMN.lower()), None)


def _require_a_row(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    is_empty = True
    for row in rows:
        is_empty = False
        yield row
    if is_empty:
        raise DataError(f"{path}: the file holds no row. Give a file with at least one molecule.")


def _require_suffix(path: Path) -> str:
    if not path.is_file():
        if path.exists():  # reading a pipe or a device may never end
            raise DataError(f"{path}: a folder, a pipe or a device. Give a file.")
        raise DataError(f"{path}: no such file. Check the path.")
    if (suffix := find_suffix(path.name)) is None:
        raise DataError(
            f"{path}: unknown kind of file. molvae reads {', '.join(READABLE_SUFFIXES)}, text kinds also with .gz."
        )
    return suffix


def _iter_text_rows(path: Path, column: str, split_column: str) -> Iterator[Row]:
    try:
        layout = find_layout(path, column)
        with open_text(path, layout.encoding) as file:
            if layout.delimiter is None:
                for line in iter_lines(file):
                    yield _make_row(line, problem="line_too_long") if is_cut(line) else _make_row(read_smiles(line))
            else:
                records = iter_records(islice(iter_lines(file), layout.n_skipped, None), layout.delimiter)
                yield from _iter_delimited_rows(path, records, column, split_column)
    except READ_ERRORS as err:
        raise _make_read_error(path, err) from err


def _make_read_error(path: Path, err: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({err}). Is it whole, and of the kind its name says?")


def _iter_delimited_rows(
    path: Path, records: Iterator[tuple[list[str], list[str]]], column: str, split_column: str
) -> Iterator[Row]:
    n_rows = 0
    try:
        header, header_lines = next(records, (None, []))
        if header is None:
            raise DataError(f"{path}: the file is empty. Give a file with a header and at least one molecule.")
        if is_cut(header_lines[0]):
            raise DataError(f"{path}: the first line has more than {MAX_LINE} characters. Is it a table?")
        at, split_at = _find_columns(path, header, column, split_column)
        for record, lines in records:
            n_rows += len(lines)
            if len(lines) > 1:
                yield from (_make_row(line, problem="record_over_several_lines") for line in lines)
            elif is_cut(lines[0]):
                yield _make_row(lines[0], problem="line_too_long")
            elif not record:
                yield Row("")
            elif len(record) > len(header):
                yield _make_row(lines[0], problem="too_many_columns")
            elif len(record) <= max(at, split_at) or (len(record) < len(header) and not lines[0].endswith("\n")):
                yield _make_row(lines[0], problem="too_few_columns")
            else:
                yield _make_row(restore_cell(record[at]), record[split_at] if split_at >= 0 else None)
    except csv.Error as err:
        raise DataError(f"{path}: row {n_rows + 1}: {err}. Is a quotation mark left open?") from err


def _find_columns(path: Path, header: list[str], column: str, split_column: str) -> tuple[int, int]:
    """Find where the two columns stand; -1 for a split column that the file may lack."""
    names = [name.strip() for name in header]
    if column not in names and find_suffix(path.name) in SMILES_SUFFIXES:  # which need no column to be named
        column = next(name for name in SMILES_COLUMNS if name in names)
    split = find_split_column(names, split_column)
    for name in (column, split):
        if name is not None and names.count(name) != 1:
            where = "--column on the command line, data.column and data.split_column in the config"
            if name in names:
                raise DataError(f"{path}: {names.count(name)} columns are called {name!r}. Rename all but one.")
            raise DataError(
                f"{path}: no column {name!r}.{_describe_header(name, names)} Name one that is there ({where})."
            )
    return names.index(column), -1 if split is None else names.index(split)


def _describe_header(name: str, names: list[str]) -> str:
    """Suggest a column; of a table that seems to have one only, say which delimiters are known."""
    if hint := _describe_molecule_in_header(names):
        return f" {hint}"
    names = [name[:KEPT_TEXT] for name in names[:MAX_NAMES]]
    if len(names) == 1:
        return f" The header is {names[0]!r}, with none of the delimiters comma, semicolon, tab and |."
    return suggest_nearest(name, names)


def _describe_molecule_in_header(names: list[str]) -> str:
    """Say that the first line is no header, if it holds a molecule."""
    if found := next((name for name in names[:MAX_NAMES] if is_molecule(name)), None):
        return f"{found!r} in the first line is a molecule: if the file has no header, add one or call it .smi."
    return ""


def _make_row(smiles: str, split: str | None = None, problem: str | None = None) -> Row:
    if max(len(smiles), len(split or "")) > MAX_TEXT:
        problem, split = problem or "too_long", None
    if problem:
        smiles = smiles[:KEPT_TEXT]
    try:
        (smiles + (split or "")).encode("utf-8")
        return Row(smiles.strip(), split and split.strip(), problem)
    except UnicodeEncodeError:
        readable = smiles[:KEPT_TEXT].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return Row(readable.strip(), None, "not_utf8")


def _iter_parquet_rows(path: Path, column: str, split_column: str) -> Iterator[Row]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        at, split_at = _find_columns(path, names, column, split_column)
        column, split_column = names[at], names[split_at]  # with the blanks that they may have at their ends
        columns = [column, split_column] if split_at >= 0 else [column]
        for name in columns:
            _require_values(path, file.schema_arrow.field(name))
        _check_size(path, file.metadata, columns)
        file = pyarrow.parquet.ParquetFile(path, read_dictionary=columns)  # a text of many rows is read once
        for batch in file.iter_batches(ROW_GROUP, columns=columns):
            splits = _iter_texts(batch[split_column]) if split_at >= 0 else iter([None] * len(batch))
            for smiles, split in zip(_iter_texts(batch[column]), splits, strict=True):
                yield _make_row(smiles or "", split)
    except (pyarrow.ArrowException, OSError, UnicodeError) as err:  # the last: a column name that is no UTF-8
        raise DataError(f"{path}: cannot be read as parquet ({err}).") from err


def _require_values(path: Path, field: pyarrow.Field) -> None:
    """Refuse a column whose values are no text, and no numbers that may stand for one."""
    kind = field.type.value_type if pyarrow.types.is_dictionary(field.type) else field.type
    is_value = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_decimal(kind)
    if not (is_value or pyarrow.types.is_boolean(kind) or pyarrow.types.is_null(kind) or _is_text(kind)):
        raise DataError(f"{path}: column {field.name!r} holds {str(kind)[:KEPT_TEXT]}, no text. Name another column.")


def _is_text(kind: pyarrow.DataType) -> bool:
    is_string = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
    is_binary = pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
    is_view = pyarrow.types.is_string_view(kind) or pyarrow.types.is_binary_view(kind)
    return is_string or is_binary or is_view or pyarrow.types.is_fixed_size_binary(kind)


def _check_size(path: Path, metadata: pyarrow.parquet.FileMetaData, columns: Sequence[str]) -> None:
    """Refuse a file whose columns claim more rows or bytes than a table of molecules has."""
    n_bytes = metadata.num_rows
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        chunks = map(group.column, range(group.num_columns))
        n_bytes += sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns)
    check_expansion(path, n_bytes, os.path.getsize(path), PARQUET_BYTES)


def _iter_texts(values: pyarrow.Array) -> Iterator[str | None]:
    """Values as text, of which long ones are cut; bytes that are no UTF-8 come through marked."""
    distinct = _cut_texts(values.dictionary) if pyarrow.types.is_dictionary(values.type) else None
    for start in range(0, len(values), TEXTS_AT_ONCE):
        piece = values.slice(start, TEXTS_AT_ONCE)
        if distinct is None:
            texts = _cut_texts(piece)
        else:  # which checks the indices
            texts = pyarrow.DictionaryArray.from_arrays(piece.indices, distinct).dictionary_decode()
        for text in texts.to_pylist():
            if isinstance(text, bytes):
                yield text.decode("utf-8", "surrogateescape")
            else:
                yield None if text is None else str(text)


def _cut_texts(values: pyarrow.Array) -> pyarrow.Array:
    """Bytes of texts, up to one that shows that they are too long; other values as they are."""
    if not _is_text(values.type):
        return values
    values = values.cast(pyarrow.large_binary())
    return pyarrow.compute.binary_slice(values, 0, 4 * MAX_TEXT + 1)  # of 4 bytes a character at most
