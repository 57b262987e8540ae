"""The MOSES data set in its wheel, with a small wheel of the same layout."""

from __future__ import annotations

import gzip
import zipfile

import pytest

from molvae.data import moses
from molvae.data.moses import MOSES_FOLDER, MOSES_SPLITS, download_moses_wheel, iter_moses_rows
from molvae.data.readers import Row
from molvae.errors import DataError
from molvae.runtime.files import compute_sha256


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "molsets-0.3.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for split, smiles in zip(MOSES_SPLITS, ("CCO", "CC", "C"), strict=True):
            archive.writestr(f"{MOSES_FOLDER}/{split}.csv.gz", gzip.compress(f"SMILES,SPLIT\n{smiles},x\n".encode()))
    return path


@pytest.fixture(autouse=True)
def forbid_downloads(monkeypatch):
    def run(*arguments, **options):
        raise AssertionError("pip was called")

    monkeypatch.setattr(moses.subprocess, "run", run)


def test_moses_molecules_have_the_split_of_their_file(wheel):
    assert list(iter_moses_rows(wheel)) == [Row("CCO", "train"), Row("CC", "test"), Row("C", "test_scaffolds")]


def test_moses_wheel_with_the_right_checksum_is_not_downloaded_again(wheel, monkeypatch):
    monkeypatch.setattr(moses, "MOSES_SHA256", compute_sha256(wheel))
    assert download_moses_wheel(wheel.parent) == wheel


def test_moses_wheel_with_another_checksum_after_the_download_is_refused(wheel, monkeypatch):
    class Success:
        returncode, stderr = 0, ""

    monkeypatch.setattr(moses.subprocess, "run", lambda *arguments, **options: Success)
    with pytest.raises(DataError, match="its SHA-256 is .*Delete it and fetch again"):
        download_moses_wheel(wheel.parent)
