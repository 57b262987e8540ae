"""Row accounting: every row of a stage is kept, rejected or a duplicate."""

from __future__ import annotations

import json

import pytest

from molvae.data.accounting import RowCounts, flatten_counts, write_counts
from molvae.errors import MolvaeError


def test_row_counts_that_add_up_are_written_as_they_are_returned(tmp_path):
    counts = write_counts(
        tmp_path / "counts.json", "featurize", rows_in=10, kept=6, rejected={"empty": 3}, duplicates=1
    )
    assert json.loads((tmp_path / "counts.json").read_text()) == counts
    assert counts == {"stage": "featurize", "rows_in": 10, "kept": 6, "rejected": {"empty": 3}, "duplicates": 1}
    assert list(counts) == list(RowCounts.__annotations__)


def test_row_counts_that_do_not_add_up_are_an_error_with_both_sums_and_no_file(tmp_path):
    with pytest.raises(MolvaeError, match="10 rows came in, but 6 kept.*3 rejected.*2 duplicates = 11"):
        write_counts(tmp_path / "counts.json", "featurize", rows_in=10, kept=6, rejected={"empty": 3}, duplicates=2)
    assert not list(tmp_path.iterdir())


def test_flattened_counts_are_the_numbers_with_nested_names_and_without_settings():
    counts = {"stage": "x", "kept": 2, "rejected": {"empty": 1, "deep": {"er": 0.5}}, "list": [1], "settings": {"a": 1}}
    assert flatten_counts(counts) == {"kept": 2, "rejected/empty": 1, "rejected/deep/er": 0.5}
