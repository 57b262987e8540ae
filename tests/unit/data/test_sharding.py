"""Shards of rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molvae.data.sharding import Shard
from molvae.errors import MolvaeError


@given(st.integers(0, 10_000), st.integers(1, 50))
def test_shards_partition_the_rows_in_order_into_equal_parts_but_for_one_row(n_rows, total):
    ranges = [Shard(number, total).range(n_rows) for number in range(1, total + 1)]
    assert [row for part in ranges for row in part] == list(range(n_rows))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_shard_is_parsed_from_its_name_in_snakemake():
    assert Shard.parse("2-of-4") == Shard(2, 4)


@pytest.mark.parametrize("text", ["0-of-4", "5-of-4", "2", "2of4", "a-of-b", "-1-of-4", "1-of-0", "2-of-4 "])
def test_shard_with_an_invalid_name_is_refused_with_an_example(text):
    with pytest.raises(MolvaeError, match="write it as 1-of-4"):
        Shard.parse(text)
