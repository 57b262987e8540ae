"""Closed books."""

from __future__ import annotations

import json

import pytest

from molvae.data.accounting import close_books, figures
from molvae.errors import MolvaeError


def test_books_that_close_are_written_as_they_are_returned(tmp_path):
    books = close_books(tmp_path / "books.json", "featurize", rows_in=10, kept=6, rejected={"empty": 3}, duplicates=1)
    assert json.loads((tmp_path / "books.json").read_text()) == books
    assert books == {"stage": "featurize", "rows_in": 10, "kept": 6, "rejected": {"empty": 3}, "duplicates": 1}


def test_books_that_do_not_close_are_an_error_with_both_sums_and_no_file(tmp_path):
    with pytest.raises(MolvaeError, match="10 rows came in, but 6 kept.*3 rejected.*2 duplicates = 11"):
        close_books(tmp_path / "books.json", "featurize", rows_in=10, kept=6, rejected={"empty": 3}, duplicates=2)
    assert not list(tmp_path.iterdir())


def test_figures_are_the_numbers_with_nested_names():
    books = {"stage": "x", "kept": 2, "rejected": {"empty": 1, "deep": {"er": 0.5}}, "list": [1]}
    assert figures(books) == {"kept": 2, "rejected/empty": 1, "rejected/deep/er": 0.5}
