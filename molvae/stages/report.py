"""Stage `report`: everything about one experiment on one page."""

from __future__ import annotations

from pathlib import Path

from molvae.report import render_report
from molvae.runtime.files import atomic_write


def report(experiment_dir: Path, dataset_counts: Path, out: Path) -> None:
    """Write the report of an experiment as one self-contained HTML file.

    Args:
        experiment_dir: folder with tokens/, model/, samples/ and validation/; its name is the page's title.
        dataset_counts: the .json beside the data set.
        out: file to write.
    """
    page = render_report(experiment_dir, dataset_counts, title=experiment_dir.absolute().name)
    with atomic_write(out) as temporary:
        temporary.write_text(page, "utf-8")
