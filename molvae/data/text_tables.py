"""Text files as records: encoding, delimiter and header found by looking at the first lines, each line accounted for.

A record knows the lines that it takes. Where fields are separated by tabs, quotation marks are text, but for a pair
around a whole field; in other tables a field may be quoted.

Memory is bounded whatever a file holds: of a line of more than MAX_LINE characters, only a part is kept, and what a
compressed file may expand to is limited.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

from molvae.data.formats import SMILES_SUFFIXES, find_suffix
from molvae.errors import DataError

SMILES_COLUMNS = ("SMILES", "smiles", "Smiles", "canonical_smiles", "Canonical_SMILES", "CANONICAL_SMILES")
WHITE_SPACE = " "  # stands for any run of blanks and tabs
DELIMITERS = (",", "\t", ";", "|", WHITE_SPACE)
MAX_LINE = 1_000_000  # characters of a record; more over several lines are an open quotation mark
N_LOOKED_AT = 50  # lines that the layout is found from
MAX_EXPANSION = 200  # bytes for a compressed one; tables of molecules take less than 20
EXPANDED_BYTES = 1_000_000_000  # that a file may expand to all the same
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_KINDS = {  # by their first bytes
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PAR1": "a parquet file",
    b"%PDF": "a PDF",
}
_SEPARATOR_LINE = re.compile(r'"?sep=.?"?', re.IGNORECASE)
_TOKEN = re.compile(r"\[[^\]]+\]|Br?|Cl?|[NOSPFIbcnops]|[=#()/\\.:~@+-]|%?\d+")
_SMILES_AND_EXTENSION = re.compile(r"(\S+)(?:\s+(\|[^|]*\|?))?\s*")  # C[C@H](F)Cl |&1:1| name


class Layout(NamedTuple):
    """How the text of a file is to be read.

    Attributes:
        encoding: as Python calls it.
        delimiter: one of DELIMITERS; None: no table, each line begins with a SMILES.
        n_skipped: lines before the header of a table: blank ones, and the `sep=;` of a spreadsheet.
    """

    encoding: str
    delimiter: str | None
    n_skipped: int = 0


def find_layout(path: Path, column: str | None = None) -> Layout:
    """Find encoding and delimiter of a text file.

    The delimiter is the one under which the header names the SMILES column and the lines have as many fields as it; if
    that holds for several, the one that the suffix promises. A file of one of SMILES_SUFFIXES is a table if its first
    line names a column of SMILES.

    Args:
        path: a file of one of READABLE_SUFFIXES but .parquet.
        column: name of the SMILES column; None: any of SMILES_COLUMNS.

    Raises:
        DataError: it holds UTF-16 without a byte-order mark, or no text.
    """
    encoding = _find_encoding(path)
    suffix = find_suffix(path.name)
    with open_text(path, encoding) as file:
        lines = [line.rstrip("\n") for line in read_first_lines(file, N_LOOKED_AT)]
    n_skipped = next((k for k, line in enumerate(lines) if line.strip() and not _SEPARATOR_LINE.fullmatch(line)), 0)
    lines = [line for line in lines[n_skipped:] if line]
    if not lines:
        return Layout(encoding, None if suffix in SMILES_SUFFIXES else ",")
    candidates = [mark for mark in DELIMITERS if mark in lines[0]]
    if suffix not in SMILES_SUFFIXES:
        own = "\t" if suffix == ".tsv" else ","
        candidates = [own, *(mark for mark in candidates if mark != own)]
    candidates = candidates or [WHITE_SPACE]
    scores = {delimiter: _score_delimiter(lines, delimiter, column) for delimiter in candidates}
    best = max(candidates, key=scores.__getitem__)
    if suffix in SMILES_SUFFIXES and not scores[best][0]:
        _refuse_tokens(path, lines)
        return Layout(encoding, None)
    return Layout(encoding, best, n_skipped)


def _refuse_tokens(path: Path, lines: Sequence[str]) -> None:
    """Refuse SMILES whose tokens are separated by blanks: each would be read as its first atom."""
    tokenized = [line for line in lines if len(fields := line.split()) > 3 and all(map(_TOKEN.fullmatch, fields))]
    if 2 * len(tokenized) > len(lines):
        raise DataError(f"{path}: {tokenized[0][:60]!r} is a SMILES with blanks between its tokens. Remove the blanks.")


def _find_encoding(path: Path) -> str:
    with _open_bytes(path) as file:
        start = file.read(256)
    if mark := next((mark for mark in _BYTE_ORDER_MARKS if start.startswith(mark)), None):
        return _BYTE_ORDER_MARKS[mark]
    if kind := next((kind for mark, kind in _KINDS.items() if start.startswith(mark)), None):
        raise DataError(f"{path}: this is {kind}, not the text that its name promises. Rename or convert it.")
    if 4 * start.count(0) > len(start):
        raise DataError(
            f"{path}: no UTF-8 text, perhaps UTF-16. Save it as UTF-8, e.g. iconv -f utf-16 -t utf-8, and try again."
        )
    return "utf-8"


def _score_delimiter(lines: Sequence[str], delimiter: str, column: str | None) -> tuple[bool, float, bool]:
    """Whether the header names the SMILES column, which part of the lines has its fields, whether it is several."""
    header = _try_split(lines[0], delimiter)
    has_name = not {column, *SMILES_COLUMNS}.isdisjoint(name.strip() for name in header)
    fitting = [len(_try_split(line, delimiter)) == len(header) for line in lines[1:]]
    return has_name, sum(fitting) / max(1, len(fitting)), len(header) > 1


def _try_split(line: str, delimiter: str) -> list[str]:
    try:
        return split_line(line, delimiter, None)
    except csv.Error:  # a field of gigantic size, or a NUL
        return []


def open_text(path: Path, encoding: str) -> TextIO:
    """Open text with any line ends; bytes that are not of its encoding come through marked.

    Raises:
        DataError: while it is read: it expands to more than `check_expansion` allows.
    """
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    return io.TextIOWrapper(_open_bytes(path), encoding=encoding, errors=errors, newline=None)


def _open_bytes(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return cast(BinaryIO, io.BufferedReader(_Expanded(path, gzip.GzipFile(path))))
    return open(path, "rb")


class _Expanded(io.RawIOBase):
    """The bytes that a compressed file expands to."""

    def __init__(self, path: Path, file: gzip.GzipFile) -> None:
        self._path, self._file, self._n_bytes = path, file, 0
        self._size = os.path.getsize(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._file.readinto(buffer)
        self._n_bytes += count
        check_expansion(self._path, self._n_bytes, self._size, EXPANDED_BYTES)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def check_expansion(path: Path, n_bytes: int, size: int, allowed: int) -> None:
    """Refuse a file that expands to so much that it was made to fill a memory or a disk.

    Args:
        path: the file.
        n_bytes: that it expands to.
        size: of the file, in bytes.
        allowed: bytes that any file may expand to.

    Raises:
        DataError: they are more than that, and more than MAX_EXPANSION for each byte of the file.
    """
    if n_bytes > max(allowed, MAX_EXPANSION * size):
        raise DataError(
            f"{path}: its {size} bytes expand to {n_bytes} or more, which no table of molecules does. If they are "
            "wanted all the same, give the file uncompressed."
        )


def iter_lines(file: TextIO) -> Iterator[str]:
    """Iterate over the lines of a file, with their ends; of one that is too long only the start (`is_cut`)."""
    while line := file.readline(MAX_LINE + 1):
        yield line
        if is_cut(line):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith("\n"):
                pass


def is_cut(line: str) -> bool:
    """Tell whether a line of `iter_lines` is the start of one of more than MAX_LINE characters."""
    return len(line) > MAX_LINE and not line.endswith("\n")


def read_first_lines(file: TextIO, n: int) -> list[str]:
    """Read the first `n` lines, or fewer that have MAX_LINE characters together."""
    lines: list[str] = []
    n_characters = 0
    for line in iter_lines(file):
        lines.append(line)
        n_characters += len(line)
        if len(lines) == n or n_characters > MAX_LINE:
            break
    return lines


def iter_records(file: Iterable[str], delimiter: str) -> Iterator[tuple[list[str], list[str]]]:
    """Iterate over the records of a table: the fields of each, and the lines that it takes, with their ends.

    A line that is too long has no fields.

    Args:
        file: lines, as `iter_lines` gives them.
        delimiter: one of DELIMITERS.

    Raises:
        csv.Error: a quotation mark is left open.
    """
    if delimiter in ("\t", WHITE_SPACE):
        n_fields = None
        for line in file:
            fields = [] if is_cut(line) else split_line(line.rstrip("\n"), delimiter, n_fields)
            n_fields = n_fields or len(fields)
            yield fields, [line]
        return
    csv.field_size_limit(max(MAX_LINE + 1, csv.field_size_limit()))
    lines: list[str] = []

    def note_lines() -> Iterator[str]:
        n_characters = 0
        for line in file:
            n_characters = len(line) + (n_characters if lines else 0)
            lines.append(line)
            if len(lines) > 1 and n_characters > MAX_LINE:
                raise csv.Error(f"a record of more than {MAX_LINE} characters")
            yield "\n" if is_cut(line) else line

    for record in csv.reader(note_lines(), strict=True, delimiter=delimiter, skipinitialspace=True):
        yield record, lines.copy()
        lines.clear()


def split_line(text: str, delimiter: str, n_fields: int | None) -> list[str]:
    """Split a line into its fields; between the last of `n_fields`, white space separates nothing."""
    if delimiter == WHITE_SPACE:
        if not (match := _SMILES_AND_EXTENSION.match(text.strip())):
            return []
        first, rest = join_extension(match), text.strip()[match.end() :]
        if n_fields is None:
            return [first, *rest.split()]
        fields = [first] if n_fields == 1 else [first, *rest.split(maxsplit=n_fields - 2)]
        return ["", *fields] if text[0].isspace() and len(fields) < n_fields else fields
    if delimiter == "\t":
        return [_unquote(field) for field in text.split("\t")] if text else []
    return next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [])


def read_smiles(line: str) -> str:
    """Read the SMILES that a line begins with, and its extension (CXSMILES) if one follows.

    >>> read_smiles("C[C@H](F)Cl |&1:1| a racemate")
    'C[C@H](F)Cl |&1:1|'
    """
    match = None if line.startswith("\t") else _SMILES_AND_EXTENSION.match(line.strip())  # an empty first field
    return join_extension(match) if match else ""


def join_extension(match: re.Match[str]) -> str:
    """Join a SMILES and its extension with a blank."""
    return " ".join(part for part in match.groups() if part)


def _unquote(field: str) -> str:
    """Remove a pair of quotation marks around a whole field, as R and pandas write them."""
    is_quoted = len(field) >= 2 and field[0] == field[-1] == '"'
    return field[1:-1].replace('""', '"') if is_quoted else field
