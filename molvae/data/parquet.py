"""Tables that a stage wrote and another one reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet

from molvae.errors import DataError


def open_table(path: Path) -> pyarrow.parquet.ParquetFile:
    """Open a table to read it in pieces.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    with _explain_damage(path):
        return pyarrow.parquet.ParquetFile(path)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """Read a whole table, or some of its columns.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    with _explain_damage(path):
        return pyarrow.parquet.read_table(path, columns=columns)


def read_frame(path: Path) -> pd.DataFrame:
    """Read a whole table with the types of pandas.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    with _explain_damage(path):
        return pd.read_parquet(path)


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Run the stage that writes it first.") from None
    except (pyarrow.ArrowInvalid, OSError) as err:
        raise DataError(f"{path}: damaged ({err}). Delete it and run the stage that writes it again.") from err
