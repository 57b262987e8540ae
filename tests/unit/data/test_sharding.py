"""Shares of rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molvae.data.sharding import Share
from molvae.errors import MolvaeError


@given(st.integers(0, 10_000), st.integers(1, 50))
def test_shares_are_a_partition_in_order_and_of_equal_size_but_for_one(total, of):
    ranges = [Share(number, of).range(total) for number in range(1, of + 1)]
    assert [row for part in ranges for row in part] == list(range(total))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_a_share_is_read_as_snakemake_writes_it():
    assert Share.parse("2-of-4") == Share(2, 4)


@pytest.mark.parametrize("text", ["0-of-4", "5-of-4", "2", "2of4", "a-of-b", "-1-of-4", "1-of-0", "2-of-4 "])
def test_a_share_that_is_none_is_refused_with_an_example(text):
    with pytest.raises(MolvaeError, match="write it as 1-of-4"):
        Share.parse(text)
