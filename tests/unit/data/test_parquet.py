"""Tables between stages: read whole, or refused by name."""

from __future__ import annotations

import pandas as pd
import pytest

from molvae.data.parquet import open_table, read_frame, read_table
from molvae.errors import DataError

READERS = [open_table, read_table, read_frame]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_truncated_table_is_refused_by_name(tmp_path, read, part):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"x": range(1000)}).to_parquet(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DataError, match=r"a\.parquet: damaged .* Delete it and run the stage that writes it again"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_a_missing_table_is_named(tmp_path, read):
    with pytest.raises(DataError, match=r"a\.parquet: no such file\. Run the stage that writes it first"):
        read(tmp_path / "a.parquet")


def test_a_table_is_read_as_it_was_written(tmp_path):
    frame = pd.DataFrame({"x": [1, 2], "y": ["a", None]})
    frame.to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet", columns=["x"]).to_pydict() == {"x": [1, 2]}
    pd.testing.assert_frame_equal(read_frame(tmp_path / "a.parquet"), frame)
    assert open_table(tmp_path / "a.parquet").metadata.num_rows == 2
