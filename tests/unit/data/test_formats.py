"""File formats by suffix."""

from __future__ import annotations

import pytest

from molvae.data.formats import READABLE_SUFFIXES, SAMPLE_SUFFIXES, TABLE_SUFFIXES, find_suffix, has_suffix


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.smi", ".smi"),
        ("a.b.TSV", ".tsv"),
        ("mine.CSV.gz", ".csv"),
        ("a.parquet", ".parquet"),
        ("csv", None),
        ("a.csv.zip", None),
        ("a.gz", None),
        ("a.txt", ".txt"),
        ("a.SMILES.gz", ".smiles"),
        ("a.ism", ".ism"),
        ("a.xlsx", None),
    ],
)
def test_readable_suffix_of_a_file_is_found_whatever_its_case_and_compression(name, suffix):
    assert find_suffix(name) == suffix
    assert suffix is None or suffix in READABLE_SUFFIXES


def test_results_can_be_written_to_stdout_and_to_files_of_the_given_suffixes():
    assert has_suffix("-", TABLE_SUFFIXES) and has_suffix("folder/a.parquet", TABLE_SUFFIXES)
    assert has_suffix("a.smi", SAMPLE_SUFFIXES) and not has_suffix("a.smi", TABLE_SUFFIXES)
    assert not has_suffix("a.csv.gz", TABLE_SUFFIXES) and not has_suffix("csv", TABLE_SUFFIXES)
    assert has_suffix("A.CSV", TABLE_SUFFIXES) and has_suffix("a.Smi", SAMPLE_SUFFIXES)
