"""The token store on disk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from molvae.data.token_store import TokenStoreWriter, read_properties, read_tokens, read_variants
from molvae.errors import DataError

MOLECULES = [[4, 5, 6], [255], [7, 7], [9, 8, 7, 6]]
SPLITS = ["train", "test", "train", "valid"]


def write(
    path, molecules=MOLECULES, splits=SPLITS, size=256, pieces=1, announced=None, variants=(), announced_variants=None
):
    names = sorted(set(splits))
    with TokenStoreWriter(path, size, announced or len(molecules), names, announced_variants or len(variants)) as store:
        for rows in np.array_split(np.arange(len(molecules)), pieces):
            store.write(*flat([molecules[row] for row in rows]), [splits[row] for row in rows])
        for rows in np.array_split(np.arange(len(variants)), pieces):
            store.write_variants(*flat([variants[row] for row in rows]))
    return path


def flat(molecules):
    ids = np.array([i for molecule in molecules for i in molecule], dtype=np.uint16)
    return ids, np.array([len(molecule) for molecule in molecules], dtype=np.int64)


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


@given(st.lists(st.lists(st.integers(4, 999), min_size=1), min_size=1), st.integers(1, 5))
def test_variants_come_back_in_their_order_and_leave_the_molecules_alone(tmp_path_factory, variants, pieces):
    folder = tmp_path_factory.mktemp("store")
    one = write(folder / "one", size=1000, variants=variants)
    assert one.read_bytes() == write(folder / "many", size=1000, variants=variants, pieces=pieces).read_bytes()
    found = read_variants(one)
    assert [found[k].tolist() for k in range(len(found))] == variants
    assert as_lists(one) == as_lists(write(folder / "without", size=1000))


def test_a_store_without_variants_says_so_and_has_no_tensor_for_them(tmp_path):
    assert read_variants(write(tmp_path / "t")) is None
    assert set(load_file(tmp_path / "t")) == {"ids", "offsets", "split"}


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_properties_come_back_with_their_names_beside_their_molecules(tmp_path, pieces):
    nan = np.nan
    values = np.array([[1, 10], [2, nan], [3, 30], [nan, 40]], np.float32)
    with TokenStoreWriter(tmp_path / "t", 256, 4, sorted(set(SPLITS)), 4, ["qed", "logp"]) as store:
        for rows in np.array_split(np.arange(4), pieces):
            store.write(*flat([MOLECULES[row] for row in rows]), [SPLITS[row] for row in rows], values[rows])
        store.write_variants(*flat(MOLECULES))
    assert read_properties(tmp_path / "t") == ["qed", "logp"]
    found = {name: part.values for name, part in read_tokens(tmp_path / "t").items()}
    assert all(part.dtype == np.float32 for part in found.values())
    np.testing.assert_equal(found, {"train": values[[0, 2]], "test": values[[1]], "valid": values[[3]]})
    assert as_lists(tmp_path / "t") == as_lists(write(tmp_path / "without"))
    assert read_properties(tmp_path / "without") == [] and read_tokens(tmp_path / "without")["train"].values is None


@pytest.mark.parametrize(("size", "dtype"), [(5, np.uint8), (256, np.uint8), (257, np.uint16), (65_536, np.uint16)])
def test_ids_take_one_byte_as_long_as_the_vocabulary_fits_into_it(tmp_path, size, dtype):
    ids = load_file(write(tmp_path / "t", [[4, size - 1]], ["train"], size))["ids"]
    assert ids.dtype == dtype
    assert ids.tolist() == [4, size - 1]


def test_fewer_molecules_than_announced_is_an_error_and_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match="4 molecules written, 5 announced"):
        write(tmp_path / "t", announced=5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("variants", "announced", "message"), [([[4]], 2, "1 variants"), ([], 3, "0 variants")])
def test_fewer_variants_than_announced_is_an_error_and_leaves_no_file(tmp_path, variants, announced, message):
    with pytest.raises(DataError, match=f"{message} written, {announced} announced"):
        write(tmp_path / "t", variants=variants, announced_variants=announced)
    assert not list(tmp_path.iterdir())


def test_a_writer_that_is_interrupted_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), TokenStoreWriter(tmp_path / "t", 9, 1, ["train"]) as store:
        store.write(np.array([4]), np.array([1]), ["train"])
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["truncate", "randomise", "empty", "remove", "replace_by_a_list"])
def test_a_damaged_store_is_named_with_what_to_do(tmp_path, damage, harm):
    damage[harm](write(tmp_path / "tokens.safetensors"))
    for read in (read_tokens, read_variants):
        with pytest.raises(DataError, match=r"tokens\.safetensors: no token store .*Run featurize again"):
            read(tmp_path / "tokens.safetensors")


def test_a_safetensors_file_of_something_else_is_no_token_store(tmp_path):
    save_file({"weight": np.zeros(3)}, tmp_path / "t")
    for read in (read_tokens, read_variants):
        with pytest.raises(DataError, match="no token store"):
            read(tmp_path / "t")
