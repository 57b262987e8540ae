"""Readers: files of SMILES as rows."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molvae.data import readers, text_tables
from molvae.data.readers import Row, RowGroupWriter, find_smiles_column, read_column_names, read_rows
from molvae.errors import DataError

TABLE = [("CCO", "train"), ("c1ccccc1", "test"), ("NA", "train"), ("nan", "valid")]


def write_file(path, content):
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path, column="SMILES", split_column="SPLIT"):
    return list(read_rows(path, column, split_column))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.tsv.gz", "A.CSV"])
def test_text_tables_are_read_with_any_line_ends_and_byte_order_mark(tmp_path, name, mark, end):
    comma = "\t" if "tsv" in name else ","
    lines = [f"ID{comma}SMILES{comma}SPLIT", *(f"7{comma}{smiles}{comma}{split}" for smiles, split in TABLE)]
    assert read(write_file(tmp_path / name, mark + end.join(lines) + end)) == [Row(*row) for row in TABLE]


@pytest.mark.parametrize("name", ["a.smi", "a.smi.gz"])
def test_smi_file_has_a_molecule_per_line_with_a_name_behind_it(tmp_path, name):
    path = write_file(tmp_path / name, "\ufeffCCO ethanol\r\nC\tmethane, 1\r\n\r\n  N  \r\nNA")
    assert read(path) == [Row("CCO"), Row("C"), Row(""), Row("N"), Row("NA")]


def test_parquet_file_is_read_with_missing_values_as_empty_text(tmp_path):
    frame = pd.DataFrame({"SPLIT": ["train", None, "test"], "X": 1, "SMILES": ["CCO", None, "nan"]})
    frame.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [Row("CCO", "train"), Row(""), Row("nan", "test")]


def test_reader_keeps_texts_such_as_nan_and_na_that_pandas_takes_for_missing(tmp_path):
    path = write_file(tmp_path / "a.csv", "SMILES\nNA\nnan\nnull\nNone\n#N/A\n007\n")
    assert [row.smiles for row in read(path)] == ["NA", "nan", "null", "None", "#N/A", "007"]


def test_each_record_of_a_table_becomes_a_row_readable_or_not(tmp_path):
    path = write_file(
        tmp_path / "a.csv", b"N,SMILES,SPLIT\n1,C,train\n\n2\n3,C\xff,train\n4,C,tr\xffin\n5\xff\n6,,\n7,N, test \n"
    )
    rows = read(path)
    assert rows == [
        Row("C", "train"),
        Row(""),
        Row("2", None, "too_few_columns"),
        Row("C\\xff", None, "not_utf8"),
        Row("C", None, "not_utf8"),
        Row("5\\xff", None, "not_utf8"),
        Row("", ""),
        Row("N", "test"),
    ]
    assert [row.usable_smiles for row in rows] == ["C", "", None, None, None, None, "", "N"]


def test_bytes_that_are_not_utf8_spoil_only_their_own_line(tmp_path):
    assert read(write_file(tmp_path / "a.smi", b"C\nC\xe9N\nN\n")) == [
        Row("C"),
        Row("C\\xe9N", None, "not_utf8"),
        Row("N"),
    ]


def test_quotation_marks_of_a_tab_separated_table_swallow_no_row(tmp_path):
    names = ["a", '"b', "c", 'd"', '5" pipe', '"', "e"]
    lines = ["SMILES\tname", *(f"{'C' * (k + 1)}\t{name}" for k, name in enumerate(names)), '"CCO"\t"quoted ""name"""']
    rows = read(write_file(tmp_path / "a.tsv", "\n".join(lines)))
    assert rows == [*(Row("C" * (k + 1)) for k in range(len(names))), Row("CCO")]


def test_record_over_several_lines_is_as_many_damaged_rows(tmp_path):
    path = write_file(tmp_path / "a.csv", 'SMILES,name\nC,a\nCC,"b\nCCC,c\nCCCC,d"\nCCCCC,"e, f"\n\nN,g\n')
    reason = "record_over_several_lines"
    damaged = [Row(text, None, reason) for text in ('CC,"b', "CCC,c", 'CCCC,d"')]
    assert read(path) == [Row("C"), *damaged, Row("CCCCC"), Row(""), Row("N")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_row_with_more_fields_than_the_header_is_damaged(tmp_path, name):
    comma = "\t" if name.endswith("tsv") else ","
    lines = ["name,SMILES", "ethanol,CCO", "Vitamin B,C,CCCO", "methane,C,", "propane,CCC"]
    rows = read(write_file(tmp_path / name, "\n".join(lines).replace(",", comma)))
    assert [row.problem for row in rows] == [None, "too_many_columns", "too_many_columns", None]
    assert [row.usable_smiles for row in rows] == ["CCO", None, None, "CCC"]
    assert rows[1].smiles == f"Vitamin B{comma}C{comma}CCCO"  # the whole line, for the list of rejected rows


def test_long_field_of_another_column_is_read(tmp_path):
    path = write_file(tmp_path / "a.csv", "SMILES,sequence\nCCO," + "A" * 200_000 + "\nC,\n")
    assert read(path) == [Row("CCO"), Row("C")]


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.smi", "a.txt.gz"])
@pytest.mark.parametrize("start", ["", '"', "C ", "\xe9"])
def test_a_line_that_is_too_long_is_one_damaged_row_of_which_the_start_is_kept(tmp_path, name, start, end):
    header = "SMILES\tx\n" if name == "a.tsv" else "SMILES,x\n" if name == "a.csv" else ""
    lines = [header, "CCO\n", start + "C" * 2_500_000, "\n", "N\n", start + "C" * 1_000_001, end]
    rows = read(write_file(tmp_path / name, "".join(lines).replace("CCO\n", "CCO,\n" if header else "CCO\n")))
    assert len(rows) == 4 and rows[1].problem == rows[3].problem == "line_too_long"
    assert rows[1].smiles == (start + "C" * 1000)[:1000] and rows[1].usable_smiles is None


@pytest.mark.parametrize("name", ["a.csv", "a.smi", "a.parquet"])
def test_a_smiles_or_a_split_that_is_too_long_is_a_damaged_row_of_which_the_start_is_kept(tmp_path, name):
    texts, splits = ["C" * 20_000, "C" * 20_001, "N"], ["train", "test", "x" * 20_001]
    if name == "a.parquet":
        for kind in (pyarrow.string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.binary_view()):
            table = pyarrow.table({"SMILES": pyarrow.array(texts).cast(kind), "SPLIT": splits})
            pyarrow.parquet.write_table(table, tmp_path / name)
            rows = read(tmp_path / name)
            assert [row.problem for row in rows] == [None, "too_long", "too_long"]
    elif name == "a.csv":
        lines = ["SMILES,SPLIT", *(f"{text},{split}" for text, split in zip(texts, splits, strict=True)), ""]
        rows = read(write_file(tmp_path / name, "\n".join(lines)))
        assert [row.problem for row in rows] == [None, "too_long", "too_long"]
    else:
        rows = read(write_file(tmp_path / name, "\n".join(texts)))
        assert [row.problem for row in rows] == [None, "too_long", None]
    assert [len(row.smiles) for row in rows] == [20_000, 1000, 1]


def test_a_text_that_many_rows_of_a_parquet_file_have_takes_memory_once(tmp_path):
    repeated = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(3000, np.int32)), ["C" * 1_000_000])
    pyarrow.parquet.write_table(pyarrow.table({"SMILES": repeated}), tmp_path / "a.parquet")
    before = pyarrow.default_memory_pool().max_memory()
    assert [row.problem for row in read(tmp_path / "a.parquet")] == ["too_long"] * 3000
    assert pyarrow.default_memory_pool().max_memory() < before + 100_000_000  # all of them are 3 GB


@pytest.mark.parametrize("name", ["a.csv.gz", "a.smi.gz"])
def test_a_compressed_file_that_expands_to_far_too_much_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.setattr(text_tables, "EXPANDED_BYTES", 100_000)
    dense = write_file(tmp_path / name, "SMILES\n" + ("C" * 99 + "\n") * 2000)
    with pytest.raises(DataError, match="expand to 1[0-9]{5} or more, which no table of molecules does.*uncompressed"):
        read(dense)
    letters = np.random.default_rng(0).choice(np.frombuffer(b"CNOF", np.uint8), (300, 500)).tobytes().decode()
    lines = [letters[k : k + 500] for k in range(0, len(letters), 500)]
    assert len(read(write_file(tmp_path / name, "SMILES\n" + "\n".join(lines)))) == 300


def test_a_parquet_file_that_claims_far_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "PARQUET_BYTES", 1_000_000)
    pyarrow.parquet.write_table(pyarrow.table({"SMILES": ["C"] * 1_500_000}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="expand to 1[0-9]{6} or more"):
        read(tmp_path / "a.parquet")
    pyarrow.parquet.write_table(
        pyarrow.table({"SMILES": ["C", "N"], "x": ["A" * 5_000_000] * 2}), tmp_path / "b.parquet"
    )
    assert len(read(tmp_path / "b.parquet")) == 2  # a column that is not read


@pytest.mark.parametrize("kind", ["duration[ns]", "timestamp[us]", "date32", "time64[us]"])
@pytest.mark.parametrize("column", ["SMILES", "SPLIT"])
def test_a_parquet_column_of_times_is_refused_whatever_they_are(tmp_path, kind, column):
    values = pyarrow.array([2**31 - 1, -(2**31)], pyarrow.int32() if kind == "date32" else pyarrow.int64()).cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"SMILES": ["C", "N"]} | {column: values}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=rf"column '{column}' holds .*, no text. Name another column"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("values", [[["C"]], [{"x": "C"}], [[[b"C"]]]])
def test_a_nested_parquet_column_is_refused(tmp_path, values):
    pyarrow.parquet.write_table(pyarrow.table({"SMILES": values}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column 'SMILES' holds (list|struct)<.*, no text"):
        read(tmp_path / "a.parquet")


def test_parquet_numbers_are_read_as_their_text(tmp_path):
    table = pyarrow.table({"SMILES": [1e308, float("nan"), None], "SPLIT": [True, None, False]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [Row("1e+308", "True"), Row("nan"), Row("", "False")]


@pytest.mark.parametrize("name", [b"SMILES", b"other"])
def test_a_damaged_name_in_a_parquet_file_is_an_error_wherever_it_stands(tmp_path, name):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"SMILES": ["C"], "other": ["C"]}), path, store_schema=False)
    parts = path.read_bytes().split(name)
    for k in range(1, len(parts)):
        path.write_bytes(name.join(parts[:k]) + name[:-1] + b"\xff" + name.join(parts[k:]))
        with pytest.raises(DataError, match=r"a\.parquet: (cannot be read|no column)"):
            read(path)


@pytest.mark.parametrize("name", ["a.csv", "a.smi", "a.parquet", "a.csv.gz"])
def test_a_folder_a_pipe_and_a_device_are_refused_before_they_are_read(tmp_path, name):
    path = tmp_path / name
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        make()
        for call in (read, read_column_names):
            with pytest.raises(DataError, match="a folder, a pipe or a device. Give a file"):
                call(path)
        path.rmdir() if path.is_dir() else path.unlink()


def test_messages_name_some_columns_of_many_and_look_for_molecules_in_these(tmp_path, monkeypatch):
    looked_at: list[str] = []
    monkeypatch.setattr(readers, "is_molecule", lambda name: bool(looked_at.append(name)))
    path = write_file(tmp_path / "a.csv", ",".join(f"name-{k}" for k in range(50_000)) + "\n")
    for call in (lambda: read(path), lambda: find_smiles_column(path)):
        with pytest.raises(DataError, match="name-") as caught:
            call()
        assert len(str(caught.value)) < 2000
    assert len(looked_at) == 200


@pytest.mark.parametrize("name", ["SPLIT", "split", "Split", " Split "])
def test_split_column_is_found_in_any_usual_spelling(tmp_path, name):
    assert read(write_file(tmp_path / "a.csv", f"SMILES,{name}\nC,test\n")) == [Row("C", "test")]
    pd.DataFrame({"SMILES": ["C"], name: ["test"]}).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [Row("C", "test")]


DELIMITED = [
    # name, lines with the fields separated by "¦", delimiter
    ("a.csv", ["Name¦SMILES¦pIC50", "x¦CCO¦7,2", "y, z¦C¦", "w¦N¦6,15"], ";"),
    ("a.csv", ["SMILES¦IC50, nM", "CCO¦7,2", "C¦1,5", "N¦>42"], ";"),
    (
        "a.csv",
        ['"Molecule ChEMBL ID"¦"Molecule Name"¦"Smiles"', '"a"¦"x; y"¦"CCO"', '"b"¦""¦"C"', '"c"¦"5, 6"¦"N"'],
        ";",
    ),
    ("a.csv", ["name¦SMILES", "ethyl, alcohol¦CCO", '5" pipe¦C', '"¦N'], "\t"),
    ("a.csv", ["SMILES¦name", "CCO¦a,b;c", "C¦x", "N¦"], "|"),
    ("a.tsv", ["name¦SMILES", "a¦CCO", "b¦C", "c¦N"], ","),
    ("a.csv", ["SMILES¦name", "CCO¦a", "C¦b", "N¦c"], " "),
    ("a.csv.gz", ["id¦canonical_smiles", "a¦CCO", "b¦C", "c¦N"], ";"),
    ("a.txt", ["SMILES¦name", "CCO¦a", "C¦b", "N¦c"], ";"),
    ("a.smi", ["smiles¦name", "CCO¦ethyl alcohol", "C¦", "N¦am, mo"], " "),
    ("a.smi", ["name¦Smiles", "ethyl alcohol¦CCO", "b c¦C", "d¦N"], "\t"),
    ("a.smi", ["id¦SMILES", "1¦CCO", "2¦C", "3¦N"], " "),
    ("a.smi", ["SMILES", "CCO¦ethyl alcohol", "C¦x y", "N"], " "),
    ("a.smi", ["SMILES¦name", "CCO¦a", "C¦b", "N¦c"], ","),
]


@pytest.mark.parametrize(("name", "lines", "delimiter"), DELIMITED)
def test_the_delimiter_of_a_table_is_found_whatever_its_suffix_says(tmp_path, name, lines, delimiter):
    path = write_file(tmp_path / name, "\n".join(lines).replace("¦", delimiter) + "\n")
    assert [row.usable_smiles for row in read(path, find_smiles_column(path))] == ["CCO", "C", "N"]


def test_a_header_of_a_smi_file_is_no_molecule_and_a_file_without_header_loses_none(tmp_path):
    with_header = write_file(tmp_path / "a.smi", "smiles name\nCCO ethanol\n")
    assert read(with_header) == [Row("CCO")] and read_column_names(with_header) == ["smiles", "name"]
    assert read(write_file(tmp_path / "b.smi", "CCO,ethanol\nC methane\n")) == [Row("CCO,ethanol"), Row("C")]
    assert read(write_file(tmp_path / "c.smi", "C\n")) == [Row("C")]


def test_a_table_with_one_column_that_is_another_says_which_delimiters_are_known(tmp_path):
    path = write_file(tmp_path / "a.csv", "structure:pIC50\nCCO:7\n")
    with pytest.raises(
        DataError, match="header is 'structure:pIC50', with none of the delimiters comma, semicolon, tab"
    ):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.smi", "a.tsv.gz"])
def test_text_with_a_byte_order_mark_is_read_and_utf_16_without_one_is_named(tmp_path, encoding, name):
    lines = ["SMILES\tname", "CCO\tÄthanol", "C\tmethane"] if name != "a.smi" else ["CCO Äthanol", "C methane"]
    content = "\n".join(lines).encode(encoding)
    path = write_file(tmp_path / name, content)
    if encoding in {"utf-16-le", "utf-16-be"}:
        with pytest.raises(DataError, match="perhaps UTF-16. Save it as UTF-8"):
            read(path)
    else:
        assert read(path) == [Row("CCO"), Row("C")]


def test_the_extension_of_a_smiles_comes_with_it(tmp_path):
    text = "C[C@H](F)Cl |&1:1|"
    for content in (f"{text}\nC a |name\n", f"{text} name 1\nC\tx |y|\n", "C[C@H](F)Cl\t|&1:1|\tname\nC\n"):
        assert read(write_file(tmp_path / "a.smi", content)) == [Row(text), Row("C")]
    for text_without_end in ("C[C@H](F)Cl |&1:1", "C[C@H](F)Cl |&1:1, r|", "CCO |$a b;;$|"):
        assert read(write_file(tmp_path / "a.smi", text_without_end + "\n")) == [Row(text_without_end)]
    for name, content in (("a.smi", f"SMILES name\n{text} x\n"), ("a.tsv", f"name\tSMILES\nx\t{text}\n")):
        assert read(write_file(tmp_path / name, content)) == [Row(text)]
    for content in (f"id SMILES\n7 {text}\n", f"SMILES\n{text}\n"):
        assert read(write_file(tmp_path / "b.smi", content)) == [Row(text)]
    assert read(write_file(tmp_path / "a.csv", f'SMILES,name\n"C[C@H](F)[C@H](F)Cl |&1:1,3|",x\n{text},y\n')) == [
        Row("C[C@H](F)[C@H](F)Cl |&1:1,3|"),
        Row(text),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".smi"])
@pytest.mark.parametrize(("column", "split_column"), [("SMILES", "SPLIT"), ("other", "set")])
def test_two_columns_of_the_name_that_is_asked_for_are_refused_and_of_others_read(
    tmp_path, suffix, column, split_column
):
    def write(names):
        path = tmp_path / f"a{suffix}"
        if suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.table([["C"]] * len(names), names=names), path)
            return path
        delimiter = "," if suffix == ".csv" else "\t"
        return write_file(path, delimiter.join(names) + "\n" + delimiter.join(["C"] * len(names)) + "\n")

    assert read(write([column, split_column, "x", "x"]), column, split_column) == [Row("C", "C")]
    for doubled in (column, split_column):
        with pytest.raises(DataError, match=f"2 columns are called '{doubled}'. Rename all but one"):
            read(write([column, split_column, f" {doubled}"]), column, split_column)


def test_parquet_texts_of_every_type_are_read_and_damaged_ones_are_rows(tmp_path):
    texts = ["CCO", None, "C"]
    for kind in (pyarrow.large_string(), pyarrow.binary(), pyarrow.dictionary(pyarrow.int8(), pyarrow.string())):
        table = pyarrow.table({"SMILES": pyarrow.array(texts).cast(kind), "SPLIT": pyarrow.array([1, 2, None])})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet") == [Row("CCO", "1"), Row("", "2"), Row("C")]
    damaged = pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, pyarrow.py_buffer(np.array([0, 2, 3], np.int32)), pyarrow.py_buffer(b"C\xffN")]
    )
    pyarrow.parquet.write_table(pyarrow.table({"SMILES": damaged}), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet") == [Row("C\\xff", None, "not_utf8"), Row("N")]
    assert read_column_names(tmp_path / "b.parquet") == ["SMILES"]


def test_split_column_of_the_exact_name_comes_first(tmp_path):
    assert read(write_file(tmp_path / "a.csv", "SMILES,split,SPLIT\nC,train,test\n")) == [Row("C", "test")]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1), min_size=1))
def test_any_text_in_a_quoted_table_is_read_unchanged(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("tables") / "a.csv"
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    path.write_text("SMILES\n" + "\n".join(quoted) + "\n", "utf-8")
    assert [row.smiles for row in read(path)] == texts


def test_table_columns_are_looked_up_by_name_despite_spaces_in_the_header(tmp_path):
    path = write_file(tmp_path / "a.csv", "id, smi ,set\n1,C,b\n")
    assert read(path, "smi", "set") == [Row("C", "b")]
    assert read(path, "smi") == [Row("C", None)]


@pytest.mark.parametrize(
    ("column", "split_column", "message"),
    [
        ("smile", "SPLIT", r"a\.csv: no column 'smile'\. Did you mean 'smiles'\?"),
        ("smiles", "sett", r"a\.csv: no column 'sett'\. Did you mean 'set'\?"),
        ("zzzz", "SPLIT", "no column 'zzzz'. Known: id, smiles, set.*data.column"),
    ],
)
def test_missing_column_of_a_table_is_named_with_the_nearest_existing_one(tmp_path, column, split_column, message):
    with pytest.raises(DataError, match=message):
        read(write_file(tmp_path / "a.csv", "id,smiles,set\n1,C,b\n"), column, split_column)


def test_parquet_columns_are_looked_up_by_name_despite_spaces_around_it(tmp_path):
    pd.DataFrame({" SMILES ": ["CCO"], "SPLIT ": ["train"]}).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [Row("CCO", "train")]


def test_missing_column_of_a_parquet_file_is_named(tmp_path):
    pd.DataFrame({"smiles": ["C"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'SMILES'"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv: the file is empty"),
        ("a.csv.gz", "", "the file is empty"),
        ("a.smi", "", "holds no row"),
        ("a.csv", "SMILES,SPLIT\n", "holds no row. Give a file with at least one molecule"),
        (
            "a.xlsx",
            "C\n",
            r"unknown kind of file\. molvae reads \.smi, \.smiles, \.ism, \.txt, \.csv, \.tsv, \.parquet",
        ),
        ("a.gz", "C\n", "unknown kind of file"),
        ("a.parquet", "SMILES\nC\n", "cannot be read as parquet"),
        ("a.parquet", "", "cannot be read as parquet"),
        ("a.csv", 'SMILES,SPLIT\nCCO,train\n"CCC,train\nCCN,train\n', "row 2:.*quotation mark left open"),
        ("a.csv", 'SMILES,SPLIT\nCCO,train\n"CCC,train\n"CCN",train\n', "row 2:.*quotation mark left open"),
        ("a.csv", 'SMILES,x\nC,1\n"' + "C\n" * 600_000, "row 2: a record of more than 1000000 characters.*left open"),
        ("a.csv", "SMILES,x\n" + '"a\n",' * 300_000, "row 1: a record of more than 1000000 characters.*left open"),
        ("a.csv", "SMILES," + "x" * 1_000_001 + "\nC,\n", "the first line has more than 1000000 characters"),
    ],
)
def test_file_that_is_no_table_of_its_kind_is_an_error_that_names_it(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read(write_file(tmp_path / name, content))


def test_missing_file_is_an_error_that_asks_to_check_the_path(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv: no such file\. Check the path"):
        read(tmp_path / "a.csv")


def test_damaged_gzip_file_is_an_error_wherever_the_damage_is(tmp_path):
    whole = gzip.compress(b"SMILES\n" + b"\n".join(b"C" * (i % 50 + 1) + b"O" * (i % 7) for i in range(2000)), mtime=0)
    damaged = [whole[: len(whole) // 2], whole[:-3], b"no gzip at all"]
    damaged += [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in range(10, len(whole) - 8, 101)]
    damaged += [whole + b"garbage", whole + whole[:50]]
    for content in damaged:
        (tmp_path / "a.csv.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.csv\.gz: .*Is it whole, and of the kind its name says"):
            read(tmp_path / "a.csv.gz")


def test_gzip_members_are_read_one_after_the_other_and_gzip_within_gzip_is_named(tmp_path):
    members = [gzip.compress(text) for text in (b"C\nN", b"O\n", b"")]
    (tmp_path / "a.smi.gz").write_bytes(b"".join(members) + bytes(100))
    assert read(tmp_path / "a.smi.gz") == [Row("C"), Row("NO")]
    with pytest.raises(DataError, match="this is compressed with gzip"):
        read(write_file(tmp_path / "b.smi.gz", members[0]))


@pytest.mark.parametrize("content", ["", "SMILES\nC\n"])
def test_column_names_of_a_damaged_parquet_file_are_an_error(tmp_path, content):
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        read_column_names(write_file(tmp_path / "a.parquet", content))


def test_column_names_are_those_of_the_header_and_none_of_a_smi_file(tmp_path):
    pd.DataFrame({"id": [1], "smi": ["C"]}).to_parquet(tmp_path / "a.parquet")
    assert read_column_names(tmp_path / "a.parquet") == ["id", "smi"]
    assert read_column_names(write_file(tmp_path / "a.csv", "id, smi ,set\n1,C,b\n")) == ["id", "smi", "set"]
    assert read_column_names(write_file(tmp_path / "a.tsv.gz", "id\tsmi\n1\tC\n")) == ["id", "smi"]
    assert read_column_names(write_file(tmp_path / "a.smi", "C methane\n")) == []
    with pytest.raises(DataError, match=r"b\.csv: no such file"):
        read_column_names(tmp_path / "b.csv")


def test_smiles_column_is_the_given_one_or_the_first_known_name_or_asked_for(tmp_path):
    path = write_file(tmp_path / "a.csv", "id,canonical_smiles,smiles\n1,C,C\n")
    assert find_smiles_column(path) == "smiles"
    assert find_smiles_column(path, "id") == "id"
    assert find_smiles_column(write_file(tmp_path / "a.smi", "C\n")) == ""
    with pytest.raises(DataError, match="which column holds the SMILES.*id, structure with --column"):
        find_smiles_column(write_file(tmp_path / "b.csv", "id,structure\n1,C\n"))


@given(st.lists(st.integers(0, 25), max_size=12))
def test_row_group_writer_gives_the_same_bytes_whatever_pieces_the_rows_come_in(tmp_path_factory, pieces):
    folder, schema = tmp_path_factory.mktemp("even"), pyarrow.schema({"x": pyarrow.int64(), "y": pyarrow.string()})
    total = sum(pieces)
    table = pyarrow.table({"x": range(total), "y": [str(n) if n % 3 else None for n in range(total)]}, schema=schema)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "ROW_GROUP", 10)
        with RowGroupWriter(folder / "whole", schema) as writer:
            writer.write(table)
        with RowGroupWriter(folder / "pieces", schema) as writer:
            for number, piece in enumerate(pieces):
                writer.write(table.slice(sum(pieces[:number]), piece))
    assert (folder / "whole").read_bytes() == (folder / "pieces").read_bytes()
    file = pyarrow.parquet.ParquetFile(folder / "pieces")
    assert file.read() == table
    sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
    assert sizes == [10] * (total // 10) + [total % 10] * (total % 10 > 0)


def test_lines_before_a_header_are_passed_over_where_a_spreadsheet_writes_them(tmp_path):
    for start in ("sep=;\n", '"sep=;"\n', "\n", "\n  \n", "\nsep=;\n"):
        path = write_file(tmp_path / "a.csv", f"{start}SMILES;x\nCCO;1\n\nC;2\n")
        assert read(path) == [Row("CCO"), Row(""), Row("C")] and read_column_names(path) == ["SMILES", "x"]


def test_an_empty_first_field_is_an_empty_smiles_and_not_the_name(tmp_path):
    assert read(write_file(tmp_path / "a.smi", "CCO\ta\n\tCN\nC\tc\n")) == [Row("CCO"), Row(""), Row("C")]
    assert read(write_file(tmp_path / "b.smi", "SMILES name\nCCO a\n CN\n")) == [Row("CCO"), Row("")]


def test_tokens_separated_by_blanks_are_refused_and_names_of_several_words_are_not(tmp_path):
    lines = ["C C ( = O ) O", "c 1 c c c c c 1", "C [N+] ( = O ) [O-]", "C C"]
    with pytest.raises(DataError, match=r"'C C \( = O \) O' is a SMILES with blanks between its tokens"):
        read(write_file(tmp_path / "a.smi", "\n".join(lines)))
    assert len(read(write_file(tmp_path / "b.smi", "CCO a b c d\nC vitamin B 12 C\n"))) == 2


@pytest.mark.parametrize("name", ["a.csv", "a.smi", "a.tsv"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\x03\x04rest", "Excel workbook"),
        (gzip.compress(b"SMILES"), "compressed with gzip"),
        (b"PAR1", "parquet"),
        (bz2.compress(b"SMILES"), "compressed with bzip2"),
        (lzma.compress(b"SMILES"), "compressed with xz"),
        (pyarrow.compress(b"SMILES", "zstd", asbytes=True), "compressed with zstd"),
    ],  # fmt: skip
)
def test_a_file_of_another_kind_is_named(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=kind):
        read(tmp_path / name)


def test_a_nul_spoils_only_its_row(tmp_path):
    assert read(write_file(tmp_path / "a.smi", b"C\nC\0N\nN\n" + b"CCCCCCCC\n" * 9))[1].smiles == "C\0N"


def test_the_last_row_of_a_file_that_was_cut_is_damaged(tmp_path):
    header = "id,SMILES,y\n1,CCO,1\n"
    assert read(write_file(tmp_path / "a.csv", header + "3,CC"))[1] == Row("3,CC", None, "too_few_columns")
    assert read(write_file(tmp_path / "a.csv", header + "3,CC\n"))[1] == Row("CC")
    assert read(write_file(tmp_path / "a.csv", header + "3,CC,2"))[1] == Row("CC")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_table_without_a_header_is_recognised_by_its_first_molecule(tmp_path, name):
    path = write_file(tmp_path / name, "c1ccccc1\nCCO\n")
    for call in (lambda: find_smiles_column(path), lambda: read(path)):
        with pytest.raises(DataError, match=r"'c1ccccc1' in the first line is a molecule.*add one or call it .smi"):
            call()


def test_quoted_fields_behind_a_blank_are_read(tmp_path):
    assert read(write_file(tmp_path / "a.csv", 'name, "SMILES"\na, "CCO"\n"b, c", C\n')) == [Row("CCO"), Row("C")]


def test_cell_that_was_protected_from_spreadsheets_is_read_as_it_was(tmp_path):
    (tmp_path / "rows.csv").write_text("SMILES\n'=C\n'CCO\nCCO\n")
    assert [row.smiles for row in read_rows(tmp_path / "rows.csv", "SMILES")] == ["=C", "'CCO", "CCO"]
