"""Closed books: at each stage rows in = kept + rejected (with reason) + duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from molvae.errors import MolvaeError
from molvae.runtime.files import write_json


def close_books(
    path: Path, stage: str, *, rows_in: int, kept: int, rejected: dict[str, int], duplicates: int = 0, **more: Any
) -> dict[str, Any]:
    """Check that every row of a stage is accounted for and write its `books.json`.

    Args:
        rejected: reason code -> number of rows.
        more: further figures to keep in the file.
    Raises:
        MolvaeError: the books do not close, which is a defect of this package and never of the data.
    """
    out = kept + sum(rejected.values()) + duplicates
    if out != rows_in:
        raise MolvaeError(
            f"{path}: the books of {stage} do not close: {rows_in} rows came in, but {kept} kept + "
            f"{sum(rejected.values())} rejected + {duplicates} duplicates = {out}. Please report this as a bug."
        )
    books = {"stage": stage, "rows_in": rows_in, "kept": kept, "rejected": rejected, "duplicates": duplicates, **more}
    write_json(path, books)
    return books


def figures(books: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in a stage's books but for its settings, nested ones named with a slash, as a tracker takes them."""
    found: dict[str, float] = {}
    for name, value in books.items():
        if name == "settings":
            continue
        if isinstance(value, dict):
            found |= figures(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[prefix + name] = value
    return found
