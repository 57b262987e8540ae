"""File formats by suffix: the one table of what is read and written. Standard library only."""

from __future__ import annotations

from pathlib import Path

SMILES_SUFFIXES = (".smi", ".smiles", ".ism", ".txt")  # a molecule a line; a header makes a table of it
READABLE_SUFFIXES = (*SMILES_SUFFIXES, ".csv", ".tsv", ".parquet")  # tables of molecules; text formats also with .gz
TABLE_SUFFIXES = (".csv", ".parquet")  # tables of results
SAMPLE_SUFFIXES = (".csv", ".parquet", ".smi")


def find_suffix(name: str) -> str | None:
    """Find which of READABLE_SUFFIXES a file's name ends in, .gz aside; None: in none of them.

    >>> find_suffix("mine.CSV.gz")
    '.csv'
    """
    name = name.lower().removesuffix(".gz")
    return next((suffix for suffix in READABLE_SUFFIXES if name.endswith(suffix)), None)


def has_suffix(path: str, suffixes: tuple[str, ...]) -> bool:
    """Tell whether results can be written to a path: it is `-` for stdout, or ends in one of the suffixes.

    >>> has_suffix("scores.CSV", TABLE_SUFFIXES)
    True
    """
    return path == "-" or Path(path).suffix.lower() in suffixes
