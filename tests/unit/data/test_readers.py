"""Files of SMILES as rows."""

from __future__ import annotations

import gzip

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molvae.data import readers
from molvae.data.readers import EvenWriter, Row, read_rows
from molvae.errors import DataError

TABLE = [("CCO", "train"), ("c1ccccc1", "test"), ("NA", "train"), ("nan", "valid")]


def write(path, content):
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def rows(path, column="SMILES", split_column="SPLIT"):
    return list(read_rows(path, column, split_column))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.tsv.gz", "A.CSV"])
def test_text_tables_are_read_whatever_their_line_ends_and_byte_order_mark(tmp_path, name, mark, end):
    comma = "\t" if "tsv" in name else ","
    lines = [f"ID{comma}SMILES{comma}SPLIT", *(f"7{comma}{one}{comma}{split}" for one, split in TABLE)]
    assert rows(write(tmp_path / name, mark + end.join(lines) + end)) == [Row(*row) for row in TABLE]


@pytest.mark.parametrize("name", ["a.smi", "a.smi.gz"])
def test_a_smi_file_has_one_molecule_a_line_and_a_name_behind_it(tmp_path, name):
    path = write(tmp_path / name, "\ufeffCCO ethanol\r\nC\tmethane, 1\r\n\r\n  N  \r\nNA")
    assert rows(path) == [Row("CCO"), Row("C"), Row(""), Row("N"), Row("NA")]


def test_parquet_is_read_with_missing_values_as_empty_text(tmp_path):
    frame = pd.DataFrame({"SPLIT": ["train", None, "test"], "X": 1, "SMILES": ["CCO", None, "nan"]})
    frame.to_parquet(tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [Row("CCO", "train"), Row(""), Row("nan", "test")]


def test_text_that_other_readers_take_for_missing_stays_text(tmp_path):
    path = write(tmp_path / "a.csv", "SMILES\nNA\nnan\nnull\nNone\n#N/A\n007\n")
    assert [row.smiles for row in rows(path)] == ["NA", "nan", "null", "None", "#N/A", "007"]


def test_every_record_is_a_row_readable_or_not(tmp_path):
    path = write(
        tmp_path / "a.csv", b"N,SMILES,SPLIT\n1,C,train\n\n2\n3,C\xff,train\n4,C,tr\xffin\n5\xff\n6,,\n7,N, test \n"
    )
    assert rows(path) == [
        Row("C", "train"), Row(""), Row("2", None, "too_few_columns"), Row("C\\xff", None, "not_utf8"),
        Row("C", None, "not_utf8"), Row("5\\xff", None, "not_utf8"), Row("", ""), Row("N", "test"),
    ]  # fmt: skip


def test_bytes_that_are_no_text_spoil_only_their_own_line(tmp_path):
    assert rows(write(tmp_path / "a.smi", b"C\nC\xe9N\nN\n")) == [Row("C"), Row("C\\xe9N", None, "not_utf8"), Row("N")]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1), min_size=1))
def test_any_text_comes_through_a_quoted_table_unchanged(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("tables") / "a.csv"
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    path.write_text("SMILES\n" + "\n".join(quoted) + "\n", "utf-8")
    assert [row.smiles for row in rows(path)] == texts


def test_columns_are_found_by_name_and_the_header_may_have_spaces(tmp_path):
    path = write(tmp_path / "a.csv", "id, smi ,set\n1,C,b\n")
    assert rows(path, "smi", "set") == [Row("C", "b")]
    assert rows(path, "smi") == [Row("C", None)]


@pytest.mark.parametrize(
    ("column", "split_column", "message"),
    [("smile", "SPLIT", r"a\.csv: no column 'smile'\. Did you mean 'smiles'\?"),
     ("smiles", "sett", r"a\.csv: no column 'sett'\. Did you mean 'set'\?"),
     ("zzzz", "SPLIT", "no column 'zzzz'. Known: id, smiles, set.*data.column")],
)  # fmt: skip
def test_a_column_that_is_not_there_is_named_with_the_nearest_that_is(tmp_path, column, split_column, message):
    with pytest.raises(DataError, match=message):
        rows(write(tmp_path / "a.csv", "id,smiles,set\n1,C,b\n"), column, split_column)


def test_a_parquet_column_may_have_spaces_around_its_name(tmp_path):
    pd.DataFrame({" SMILES ": ["CCO"], "SPLIT ": ["train"]}).to_parquet(tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet", "SMILES")) == [Row("CCO", "train")]


def test_a_parquet_column_that_is_not_there_is_named_too(tmp_path):
    pd.DataFrame({"smiles": ["C"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'SMILES'"):
        rows(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv: the file is empty"),
        ("a.csv.gz", "", "the file is empty"),
        ("a.smi", "", "holds no row"),
        ("a.csv", "SMILES,SPLIT\n", "holds no row. Give a file with at least one molecule"),
        ("a.txt", "C\n", r"unknown kind of file\. molvae reads \.smi, \.csv, \.tsv, \.parquet"),
        ("a.gz", "C\n", "unknown kind of file"),
        ("a.parquet", "SMILES\nC\n", "cannot be read as parquet"),
        ("a.parquet", "", "cannot be read as parquet"),
        ("a.csv", 'SMILES,SPLIT\nCCO,train\n"CCC,train\nCCN,train\n', "row 2:.*quotation mark left open"),
        ("a.csv", 'SMILES,SPLIT\nCCO,train\n"CCC,train\n"CCN",train\n', "row 2:.*quotation mark left open"),
        ("a.csv", "SMILES\nC\n" + "C" * 200_000 + "\n", "row 2: field larger than field limit"),
    ],
)
def test_a_file_that_is_no_table_of_its_kind_is_an_error_that_names_it(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        rows(write(tmp_path / name, content))


def test_a_file_that_is_not_there_is_an_error_with_the_key_to_check(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv: no such file\. Check the path"):
        rows(tmp_path / "a.csv")


def test_a_damaged_gzip_file_is_an_error_wherever_the_damage_is(tmp_path):
    whole = gzip.compress(b"SMILES\n" + b"\n".join(b"C" * (i % 50 + 1) + b"O" * (i % 7) for i in range(2000)), mtime=0)
    harmed = [whole[: len(whole) // 2], whole[:-3], b"no gzip at all"]
    harmed += [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in range(10, len(whole) - 8, 101)]
    for content in harmed:
        (tmp_path / "a.csv.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.csv\.gz: .*Is it whole, and of the kind its name says"):
            rows(tmp_path / "a.csv.gz")


@given(st.lists(st.integers(0, 25), max_size=12))
def test_an_even_writer_gives_the_same_bytes_whatever_pieces_the_rows_come_in(tmp_path_factory, pieces):
    folder, schema = tmp_path_factory.mktemp("even"), pyarrow.schema({"x": pyarrow.int64(), "y": pyarrow.string()})
    total = sum(pieces)
    table = pyarrow.table({"x": range(total), "y": [str(n) if n % 3 else None for n in range(total)]}, schema=schema)
    before, readers.ROW_GROUP = readers.ROW_GROUP, 10
    try:
        with EvenWriter(folder / "whole", schema) as writer:
            writer.write(table)
        with EvenWriter(folder / "pieces", schema) as writer:
            for number, piece in enumerate(pieces):
                writer.write(table.slice(sum(pieces[:number]), piece))
    finally:
        readers.ROW_GROUP = before
    assert (folder / "whole").read_bytes() == (folder / "pieces").read_bytes()
    file = pyarrow.parquet.ParquetFile(folder / "pieces")
    assert file.read() == table
    sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
    assert sizes == [10] * (total // 10) + [total % 10] * (total % 10 > 0)
