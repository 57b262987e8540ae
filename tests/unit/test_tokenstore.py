"""The token store on disk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from molvae.errors import DataError
from molvae.tokenstore import TokenStoreWriter, read_tokens

MOLECULES = [[4, 5, 6], [255], [7, 7], [9, 8, 7, 6]]
SPLITS = ["train", "test", "train", "valid"]


def write(path, molecules=MOLECULES, splits=SPLITS, size=256, pieces=1, announced=None):
    names = sorted(set(splits))
    with TokenStoreWriter(path, size, announced or len(molecules), names) as store:
        for rows in np.array_split(np.arange(len(molecules)), pieces):
            ids = np.array([i for row in rows for i in molecules[row]], dtype=np.uint16)
            lengths = np.array([len(molecules[row]) for row in rows], dtype=np.int64)
            store.write(ids, lengths, [splits[row] for row in rows])
    return path


def as_lists(path):
    return {name: [part[k].tolist() for k in range(len(part))] for name, part in read_tokens(path).items()}


def test_molecules_come_back_split_by_split_in_their_order(tmp_path):
    assert as_lists(write(tmp_path / "t")) == {"test": [[255]], "train": [[4, 5, 6], [7, 7]], "valid": [[9, 8, 7, 6]]}


@given(st.lists(st.tuples(st.lists(st.integers(4, 999), min_size=1), st.sampled_from("abc")), min_size=1))
def test_the_file_does_not_depend_on_the_pieces_in_which_it_was_written(tmp_path_factory, rows):
    molecules, splits = [list(ids) for ids, _ in rows], [split for _, split in rows]
    folder = tmp_path_factory.mktemp("store")
    files = [write(folder / str(n), molecules, splits, 1000, n).read_bytes() for n in (1, 2, len(rows))]
    assert files[0] == files[1] == files[2]
    found = as_lists(folder / "1")
    assert found == {name: [m for m, s in zip(molecules, splits, strict=True) if s == name] for name in set(splits)}


@pytest.mark.parametrize(("size", "dtype"), [(5, np.uint8), (256, np.uint8), (257, np.uint16), (65_536, np.uint16)])
def test_ids_take_one_byte_as_long_as_the_vocabulary_fits_into_it(tmp_path, size, dtype):
    ids = load_file(write(tmp_path / "t", [[4, size - 1]], ["train"], size))["ids"]
    assert ids.dtype == dtype
    assert ids.tolist() == [4, size - 1]


def test_fewer_molecules_than_announced_is_an_error_and_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match="4 molecules written, 5 announced"):
        write(tmp_path / "t", announced=5)
    assert not list(tmp_path.iterdir())


def test_a_writer_that_is_interrupted_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), TokenStoreWriter(tmp_path / "t", 9, 1, ["train"]) as store:
        store.write(np.array([4]), np.array([1]), ["train"])
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["truncate", "randomise", "empty", "remove", "replace_by_a_list"])
def test_a_damaged_store_is_named_with_what_to_do(tmp_path, damage, harm):
    damage[harm](write(tmp_path / "tokens.safetensors"))
    with pytest.raises(DataError, match=r"tokens\.safetensors: no token store .*Run featurize again"):
        read_tokens(tmp_path / "tokens.safetensors")


def test_a_safetensors_file_of_something_else_is_no_token_store(tmp_path):
    save_file({"weight": np.zeros(3)}, tmp_path / "t")
    with pytest.raises(DataError, match="no token store"):
        read_tokens(tmp_path / "t")
