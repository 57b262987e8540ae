"""Stage `reference`: the statistics of reference molecules, computed once."""

from __future__ import annotations

from pathlib import Path

from molvae.metrics.reference_cache import compute_references
from molvae.metrics.reference_sets import save_sets
from molvae.runtime.workers import Workers


def reference(
    source: str, out: Path, *, column: str | None = None, downloads: Path | None = None, workers: int | Workers = 1
) -> None:
    """Write the statistics of reference molecules into one file.

    Args:
        source: "moses" (its test and scaffold test set, with the statistics that its authors published), or a file.
        out: safetensors file to write.
        column: column of the SMILES; None: the first that is called so.
        downloads: folder of the MOSES wheel; None: in the cache.
        workers: processes that describe the molecules.

    Raises:
        DataError: the file cannot be read or holds fewer than two molecules.
    """
    save_sets(out, compute_references(source, column=column, downloads=downloads, workers=workers))
