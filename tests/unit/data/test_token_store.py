"""The token store on disk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from molvae.data.token_store import TokenStore, TokenStoreWriter
from molvae.errors import DataError

MOLECULES = [[4, 5, 6], [255], [7, 7], [9, 8, 7, 6]]
SPLITS = ["train", "test", "train", "valid"]


def write_store(
    path,
    molecules=MOLECULES,
    splits=SPLITS,
    *,
    vocabulary_size=256,
    pieces=1,
    augmentations=(),
    announced_molecules=None,
    announced_augmentations=None,
):
    n_molecules = announced_molecules or len(molecules)
    n_augmentations = announced_augmentations or len(augmentations)
    with TokenStoreWriter(path, vocabulary_size, n_molecules, sorted(set(splits)), n_augmentations) as store:
        for rows in np.array_split(np.arange(len(molecules)), pieces):
            store.write(*flatten([molecules[row] for row in rows]), [splits[row] for row in rows])
        for rows in np.array_split(np.arange(len(augmentations)), pieces):
            store.write_augmentations(*flatten([augmentations[row] for row in rows]))
    return path


def flatten(molecules):
    ids = np.array([i for molecule in molecules for i in molecule], dtype=np.uint16)
    return ids, np.array([len(molecule) for molecule in molecules], dtype=np.int64)


def to_lists(tokens):
    return [tokens[row].tolist() for row in range(len(tokens))]


def read_splits(path):
    return {name: to_lists(tokens) for name, tokens in TokenStore.open(path).splits.items()}


def test_molecules_of_a_token_store_are_read_split_by_split_in_their_order(tmp_path):
    splits = read_splits(write_store(tmp_path / "t"))
    assert splits == {"test": [[255]], "train": [[4, 5, 6], [7, 7]], "valid": [[9, 8, 7, 6]]}


@given(st.lists(st.tuples(st.lists(st.integers(4, 999), min_size=1), st.sampled_from("abc")), min_size=1))
def test_token_store_file_does_not_depend_on_the_pieces_in_which_it_was_written(tmp_path_factory, rows):
    molecules, splits = [list(ids) for ids, _ in rows], [split for _, split in rows]
    folder = tmp_path_factory.mktemp("store")
    files = [
        write_store(folder / str(n), molecules, splits, vocabulary_size=1000, pieces=n).read_bytes()
        for n in (1, 2, len(rows))
    ]
    assert files[0] == files[1] == files[2]
    expected = {
        name: [ids for ids, split in zip(molecules, splits, strict=True) if split == name] for name in set(splits)
    }
    assert read_splits(folder / "1") == expected


@given(st.lists(st.lists(st.integers(4, 999), min_size=1), min_size=1), st.integers(1, 5))
def test_augmentations_are_read_in_their_order_and_leave_the_molecules_unchanged(
    tmp_path_factory, augmentations, pieces
):
    folder = tmp_path_factory.mktemp("store")
    path = write_store(folder / "one", vocabulary_size=1000, augmentations=augmentations)
    in_pieces = write_store(folder / "many", vocabulary_size=1000, augmentations=augmentations, pieces=pieces)
    assert path.read_bytes() == in_pieces.read_bytes()
    assert to_lists(TokenStore.open(path).augmentations) == augmentations
    assert read_splits(path) == read_splits(write_store(folder / "without", vocabulary_size=1000))


def test_token_store_without_augmentations_has_no_tensor_for_them(tmp_path):
    assert TokenStore.open(write_store(tmp_path / "t")).augmentations is None
    assert set(load_file(tmp_path / "t")) == {"ids", "offsets", "split"}


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_properties_are_read_with_their_names_and_beside_their_molecules(tmp_path, pieces):
    nan = np.nan
    values = np.array([[1, 10], [2, nan], [3, 30], [nan, 40]], np.float32)
    with TokenStoreWriter(tmp_path / "t", 256, 4, sorted(set(SPLITS)), 4, ["qed", "logp"]) as writer:
        for rows in np.array_split(np.arange(4), pieces):
            writer.write(*flatten([MOLECULES[row] for row in rows]), [SPLITS[row] for row in rows], values[rows])
        writer.write_augmentations(*flatten(MOLECULES))
    store = TokenStore.open(tmp_path / "t")
    assert store.properties == ["qed", "logp"]
    properties = {name: tokens.properties for name, tokens in store.splits.items()}
    assert all(array.dtype == np.float32 for array in properties.values())
    np.testing.assert_equal(properties, {"train": values[[0, 2]], "test": values[[1]], "valid": values[[3]]})
    assert read_splits(tmp_path / "t") == read_splits(write_store(tmp_path / "without"))
    without = TokenStore.open(tmp_path / "without")
    assert without.properties == [] and without.splits["train"].properties is None


@pytest.mark.parametrize(
    ("vocabulary_size", "dtype"), [(5, np.uint8), (256, np.uint8), (257, np.uint16), (65_536, np.uint16)]
)
def test_ids_take_one_byte_as_long_as_the_vocabulary_fits_into_it(tmp_path, vocabulary_size, dtype):
    path = write_store(tmp_path / "t", [[4, vocabulary_size - 1]], ["train"], vocabulary_size=vocabulary_size)
    ids = load_file(path)["ids"]
    assert ids.dtype == dtype
    assert ids.tolist() == [4, vocabulary_size - 1]


def test_fewer_molecules_than_announced_are_an_error_and_leave_no_file(tmp_path):
    with pytest.raises(DataError, match="4 molecules written, 5 announced"):
        write_store(tmp_path / "t", announced_molecules=5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("augmentations", "announced", "message"), [([[4]], 2, "1 augmentations"), ([], 3, "0 augmentations")]
)
def test_fewer_augmentations_than_announced_are_an_error_and_leave_no_file(tmp_path, augmentations, announced, message):
    with pytest.raises(DataError, match=f"{message} written, {announced} announced"):
        write_store(tmp_path / "t", augmentations=augmentations, announced_augmentations=announced)
    assert not list(tmp_path.iterdir())


def test_token_store_writer_that_is_interrupted_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), TokenStoreWriter(tmp_path / "t", 9, 1, ["train"]) as store:
        store.write(np.array([4]), np.array([1]), ["train"])
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["truncate", "randomise", "empty", "remove", "replace_by_a_list"])
def test_damaged_token_store_is_named_with_what_to_do(tmp_path, damage, harm):
    damage[harm](write_store(tmp_path / "tokens.safetensors", augmentations=MOLECULES))
    with pytest.raises(DataError, match=r"tokens\.safetensors: no token store .*Run featurize again"):
        TokenStore.open(tmp_path / "tokens.safetensors")


def test_safetensors_file_of_something_else_is_no_token_store(tmp_path):
    save_file({"weight": np.zeros(3)}, tmp_path / "t")
    with pytest.raises(DataError, match="no token store"):
        TokenStore.open(tmp_path / "t")
