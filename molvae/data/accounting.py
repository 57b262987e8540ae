"""Row accounting: at each stage rows in = kept + rejected (with reason) + duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from molvae.errors import MolvaeError
from molvae.runtime.files import write_json

COUNTS_FILE = "counts.json"


class RowCounts(TypedDict):
    """The counts of a stage as its `counts.json` has them; stages add keys of their own."""

    stage: str
    rows_in: int
    kept: int
    rejected: dict[str, int]  # reason -> rows
    duplicates: int


def write_counts(
    path: Path, stage: str, *, rows_in: int, kept: int, rejected: dict[str, int], duplicates: int = 0, **extra: Any
) -> dict[str, Any]:
    """Check that every row of a stage is accounted for and write its `counts.json`.

    Args:
        path: file to write.
        stage: its name.
        rows_in: rows that the stage was given.
        kept: rows that go on to the next stage.
        rejected: reason code -> rows.
        duplicates: rows that repeat an earlier one.
        extra: more to keep in the file.

    Returns:
        the counts, `extra` among them.

    Raises:
        MolvaeError: the counts do not add up, which is a defect of this package and never of the data.
    """
    rows_out = kept + sum(rejected.values()) + duplicates
    if rows_out != rows_in:
        raise MolvaeError(
            f"{path}: the row counts of {stage} do not add up: {rows_in} rows came in, but {kept} kept + "
            f"{sum(rejected.values())} rejected + {duplicates} duplicates = {rows_out}. Please report this as a bug."
        )
    counts = RowCounts(stage=stage, rows_in=rows_in, kept=kept, rejected=rejected, duplicates=duplicates)
    content = {**counts, **extra}
    write_json(path, content)
    return content


def flatten_counts(counts: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Collect the numbers of a stage's counts but for its settings, nested ones named with a slash, for a tracker.

    >>> flatten_counts({"stage": "fetch", "kept": 2, "splits": {"train": 1}})
    {'kept': 2, 'splits/train': 1}
    """
    numbers: dict[str, float] = {}
    for name, value in counts.items():
        if name == "settings":
            continue
        if isinstance(value, dict):
            numbers |= flatten_counts(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            numbers[prefix + name] = value
    return numbers
