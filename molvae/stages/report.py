"""Stage `report`: everything about one experiment on one page."""

from __future__ import annotations

from pathlib import Path

from molvae.report import render
from molvae.runtime.files import replacing


def report(experiment_dir: Path, dataset_books: Path, out: Path) -> None:
    """Write the report of an experiment as one self-contained HTML file.

    Args:
        experiment_dir: folder with tokens/, model/, samples/ and validation/; its name is the page's title.
        dataset_books: the .json beside the data set.
    """
    page = render(experiment_dir, dataset_books, title=experiment_dir.absolute().name)
    with replacing(out) as temporary:
        temporary.write_text(page, "utf-8")
