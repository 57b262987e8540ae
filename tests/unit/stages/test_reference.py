"""Reference sets and indexes of training molecules: what they hold, how they are saved, and that they are cached."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from molvae.chemistry.descriptors import compute_skeleton, remove_stereo, to_canonical_smiles
from molvae.chemistry.fingerprints import compute_fingerprint
from molvae.chemistry.standardise import parse_smiles
from molvae.data.moses import download_moses_wheel
from molvae.errors import DataError
from molvae.metrics import fcd, reference_cache, reference_sets
from molvae.metrics.reference_cache import get_cache_folder, load_cached_references, load_cached_training_set
from molvae.metrics.reference_sets import (
    PROPERTY_COLUMNS,
    ReferenceSet,
    TrainingSet,
    build_reference_set,
    build_training_set,
    hash_texts,
    is_in,
    load_reference_sets,
    load_training_set,
    save_sets,
)
from molvae.stages.reference import reference

UNREADABLE = "C(C)(C)(C)(C)C"


@pytest.fixture(scope="module")
def reference_set(smiles) -> ReferenceSet:
    return build_reference_set(smiles, "a few")


@pytest.fixture(scope="module")
def training_set(smiles) -> TrainingSet:
    return build_training_set(smiles, "a few", with_skeletons=True)


@pytest.fixture(params=["references", "training"])
def saved_file(request, tmp_path, reference_set, training_set):
    """A file of either kind, and the function that loads it."""
    path = tmp_path / "a.safetensors"
    if request.param == "references":
        save_sets(path, {"Test": reference_set})
        return path, load_reference_sets
    save_sets(path, {"train": training_set})
    return path, load_training_set


@pytest.fixture
def source(tmp_path, smiles):
    """A file of molecules."""
    path = tmp_path / "molecules.smi"
    path.write_text("\n".join(smiles) + "\n")
    return path


def canonicalise(smiles) -> list[str]:
    return [to_canonical_smiles(parse_smiles(text)) for text in smiles]


def assert_same(left, right) -> None:
    """Compare two sets field by field, arrays by their values and types."""
    assert type(left) is type(right)
    for field in fields(left):
        left_value, right_value = getattr(left, field.name), getattr(right, field.name)
        if isinstance(left_value, np.ndarray):
            np.testing.assert_array_equal(left_value, right_value)
            assert left_value.dtype == right_value.dtype
        elif field.name == "properties":
            assert list(left_value) == list(right_value)
            np.testing.assert_array_equal(list(left_value.values()), list(right_value.values()))
        elif field.name == "chemnet":
            assert_same(left_value, right_value)
        else:
            assert left_value == right_value


# what the sets hold


def test_a_reference_set_holds_the_statistics_of_its_molecules(smiles, reference_set):
    canonical = canonicalise(smiles)
    assert (reference_set.description, reference_set.n) == ("a few", len(smiles))
    assert_same(reference_set.chemnet, fcd.compute_statistics(canonical))
    assert [row.tobytes() for row in reference_set.fingerprints] == [
        compute_fingerprint(parse_smiles(text)) for text in smiles
    ]
    assert reference_set.fragments["[3*]O[3*]"] > 1 and reference_set.fragments.total() > len(smiles)
    assert reference_set.scaffolds["c1ccc2[nH]ccc2c1"] == 1 and reference_set.scaffolds.total() < len(smiles)
    assert "" not in reference_set.scaffolds and "" not in reference_set.fragments
    assert list(reference_set.properties) == list(PROPERTY_COLUMNS) == ["logP", "SA", "QED", "weight"]
    assert reference_set.properties["weight"][0] == pytest.approx(180.159, abs=1e-3)


def test_what_is_no_molecule_is_left_out_of_a_reference_set_and_counted(smiles, reference_set):
    longer = build_reference_set([UNREADABLE, *smiles, "", "xx"], "a few more")
    assert longer.description == "a few more, 3 of them unreadable and left out"
    assert longer.n == len(smiles)
    np.testing.assert_array_equal(longer.fingerprints, reference_set.fingerprints)


def test_a_reference_set_of_fewer_than_two_molecules_is_refused():
    with pytest.raises(DataError, match="FCD needs at least 2 valid molecules, there are 1"):
        build_reference_set(["C", UNREADABLE], "one")


def test_a_reference_set_counts_a_molecule_as_often_as_it_occurs():
    repeated = build_reference_set(["CC"] * 2 + ["c1ccc2[nH]ccc2c1"] * 3, "five")
    assert repeated.n == 5 and repeated.scaffolds == Counter({"c1ccc2[nH]ccc2c1": 3}) and repeated.fragments["CC"] == 2


def test_a_training_set_knows_its_molecules_by_each_of_their_forms(smiles, training_set):
    canonical = canonicalise(smiles)
    assert (training_set.description, training_set.n) == ("a few", len(smiles))
    np.testing.assert_array_equal(training_set.given, hash_texts(smiles))
    np.testing.assert_array_equal(training_set.canonical, hash_texts(canonical))
    np.testing.assert_array_equal(training_set.without_stereo, hash_texts(map(remove_stereo, canonical)))
    skeletons = [compute_skeleton(parse_smiles(text), text) for text in canonical]
    np.testing.assert_array_equal(training_set.skeletons, hash_texts(skeletons))
    fingerprints = np.array([list(compute_fingerprint(parse_smiles(text))) for text in smiles], dtype=np.uint8)
    np.testing.assert_array_equal(np.unique(training_set.fingerprints, axis=0), np.unique(fingerprints, axis=0))


def test_an_unreadable_training_molecule_counts_under_its_own_text_only():
    training_set = build_training_set(["OCC", UNREADABLE, "CC"], "three", with_skeletons=True)
    assert training_set.n == 3 and len(training_set.fingerprints) == 2
    assert is_in([UNREADABLE, "OCC", "CCO"], training_set.given).tolist() == [True, True, False]
    for hashes in (training_set.canonical, training_set.without_stereo, training_set.skeletons):
        assert not is_in([UNREADABLE], hashes).any()
    assert is_in([UNREADABLE, "OCC", "CCO"], training_set.canonical).tolist() == [False, False, True]
    assert sorted(training_set.smiles) == ["CC", "CCO"]


def test_the_smiles_of_a_training_set_are_drawn_as_in_guacamol_and_fewer_are_its_first(
    smiles, training_set, monkeypatch
):
    order = np.random.RandomState(42).permutation(len(smiles))
    canonical = canonicalise(smiles)
    assert training_set.smiles == tuple(canonical[row] for row in order)
    monkeypatch.setattr(reference_sets, "N_KEPT_SMILES", 5)
    assert build_training_set(smiles, "a few").smiles == training_set.smiles[:5]


def test_a_training_set_keeps_no_more_fingerprints_than_asked_for(smiles, training_set, monkeypatch):
    monkeypatch.setattr(reference_sets, "N_NEIGHBOUR_CANDIDATES", 9)
    monkeypatch.setattr(reference_sets, "TASK_ROWS", 7)  # molecules of several tasks, the last one shorter
    smaller = build_training_set(smiles, "a few")
    assert smaller.fingerprints.shape == (9, 128)
    assert {row.tobytes() for row in smaller.fingerprints} <= {row.tobytes() for row in training_set.fingerprints}
    np.testing.assert_array_equal(smaller.canonical, training_set.canonical)
    assert smaller.smiles == training_set.smiles


def test_an_index_without_skeletons_differs_in_nothing_else_and_is_saved_without(smiles, training_set, tmp_path):
    without = build_training_set(smiles, "a few")
    assert without.skeletons is None
    assert_same(replace(without, skeletons=training_set.skeletons), training_set)
    save_sets(tmp_path / "a.safetensors", {"train": without})
    assert_same(load_training_set(tmp_path / "a.safetensors"), without)


def test_damaged_arrays_in_the_cache_are_an_error_that_names_their_file(training_set, tmp_path):
    cached = replace(training_set, cache=tmp_path / "training")
    arrays = {"values": np.arange(3)}
    assert reference_sets.load_or_compute(cached, "few", [3], lambda: arrays)["values"].tolist() == [0, 1, 2]
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{path.name}: damaged .* Delete it"):
        reference_sets.load_or_compute(cached, "few", [3], fail_to_build)


def test_rows_that_are_known_to_be_canonical_are_taken_as_they_are(monkeypatch):
    monkeypatch.setattr(reference_sets, "N_NEIGHBOUR_CANDIDATES", 1)
    smiles = ["CCO", "OCC", "CCN", "CCC", "CCF", "NCC"]
    training_set = build_training_set(smiles, "six", rows_to_rewrite=[1, 5])
    expected = build_training_set(smiles, "six")
    assert_same(training_set, expected)


def test_smiles_of_moses_are_canonical_but_for_the_rows_that_are_listed(moses):
    smiles = reference_cache.read_moses_split(download_moses_wheel(moses / "downloads"), "train")
    listed = reference_cache.load_moses_rows_to_rewrite()
    assert len(smiles) == 1_584_663 and listed == sorted(set(listed))
    assert not any(set("@/\\") & set(text) for text in smiles)
    others = set(np.random.default_rng(0).choice(len(smiles), 1000).tolist()) - set(listed)
    assert [to_canonical_smiles(parse_smiles(smiles[row])) for row in others] == [smiles[row] for row in others]
    changed = [to_canonical_smiles(parse_smiles(smiles[row])) != smiles[row] for row in listed]
    assert sum(changed) > 250  # of 276; releases of RDKit differ in a few


@given(st.lists(st.text(max_size=6), max_size=20), st.lists(st.text(max_size=6), min_size=1, max_size=20))
def test_a_text_is_in_the_hashes_of_texts_that_it_is_among(texts, hashed_texts):
    queries = [*texts, *hashed_texts[:2]]
    assert is_in(queries, hash_texts(hashed_texts)).tolist() == [text in hashed_texts for text in queries]


def test_hashes_of_texts_are_sorted_and_the_same_in_every_version():
    assert hash_texts(["C"]).tolist() == [809599947829910117]
    hashes = hash_texts(str(n) for n in range(1000))
    assert hashes.dtype == np.uint64 and len(np.unique(hashes)) == 1000
    assert (np.diff(hashes.astype(object)) > 0).all()
    assert hash_texts([]).shape == (0,) and is_in([], hashes).shape == (0,)


# files


def test_reference_sets_are_loaded_as_they_were_saved(tmp_path, reference_set):
    path = tmp_path / "new" / "folder" / "a.safetensors"
    chains = build_reference_set(["CCCC", "CCC", "CC"], "Zeichen: µ")  # without a scaffold
    save_sets(path, {"Test": reference_set, "TestSF": chains})
    loaded = load_reference_sets(path)
    assert list(loaded) == ["Test", "TestSF"] and loaded["TestSF"].scaffolds == {}
    assert_same(loaded["Test"], reference_set)
    assert_same(loaded["TestSF"], chains)


def test_training_sets_are_loaded_as_they_were_saved(tmp_path, training_set):
    with pytest.raises(DataError, match="fewer than two of them are molecules that RDKit reads"):
        build_training_set(["xx", "C", UNREADABLE], "one readable")
    for saved in (training_set, build_training_set(["xx", "C", "CO", UNREADABLE], "two readable")):
        save_sets(tmp_path / "a.safetensors", {"train": saved})
        assert_same(load_training_set(tmp_path / "a.safetensors"), saved)


@pytest.mark.parametrize("how", ["truncate", "randomise", "empty", "replace_by_a_list"])
def test_a_damaged_reference_file_is_an_error_that_names_it_and_says_what_to_do(saved_file, damage, how):
    path, load = saved_file
    damage[how](path)
    with pytest.raises(DataError, match=r"a\.safetensors: not a file of `molvae reference` .* Delete it and write it"):
        load(path)


def test_a_missing_reference_file_is_an_error_that_names_what_writes_it(saved_file, damage):
    path, load = saved_file
    damage["remove"](path)
    with pytest.raises(DataError, match=r"a\.safetensors: no such file\. `molvae reference` writes it"):
        load(path)


def test_a_folder_is_no_reference_file(saved_file):
    path, load = saved_file
    with pytest.raises(DataError, match="not a file of `molvae reference`"):
        load(path.parent)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"weight": np.zeros(3)}, None),
        ({"weight": np.zeros(3)}, {"format": "pt"}),
        ({"train/weight": np.zeros(3)}, {"descriptions": json.dumps({"train": "other", "Test": "other"})}),
        ({"weight": np.zeros(3)}, {"descriptions": "a model"}),
    ],
)
def test_a_safetensors_file_of_another_program_is_no_reference_file(tmp_path, tensors, metadata):
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    for load in (load_reference_sets, load_training_set):
        with pytest.raises(DataError, match="not a file of `molvae reference`"):
            load(tmp_path / "a.safetensors")


def test_a_reference_set_is_not_loaded_as_a_training_set_nor_the_other_way_round(tmp_path, reference_set, training_set):
    save_sets(tmp_path / "a.safetensors", {"train": reference_set})
    with pytest.raises(DataError, match="not a file of `molvae reference`"):
        load_training_set(tmp_path / "a.safetensors")
    save_sets(tmp_path / "a.safetensors", {"train": training_set})
    with pytest.raises(DataError, match="not a file of `molvae reference`"):
        load_reference_sets(tmp_path / "a.safetensors")


# the stage and the cache


def fail_to_build(*_, **__):
    raise AssertionError("computed again")


def test_the_training_set_of_a_file_is_computed_once(tmp_path, source, training_set, monkeypatch):
    first = load_cached_training_set(str(source), tmp_path / "cache")
    assert re.fullmatch(rf"molecules\.smi, {training_set.n} molecules \(SHA-256 \w{{8}}\)", first.description)
    monkeypatch.setattr(reference_cache, "build_training_set", fail_to_build)
    assert_same(load_cached_training_set(str(source), tmp_path / "cache"), first)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(AssertionError, match="computed again"):
        load_cached_training_set(str(source), tmp_path / "another cache")


def test_the_reference_sets_of_a_file_are_computed_once(tmp_path, source, reference_set, monkeypatch):
    first = load_cached_references(str(source), tmp_path / "cache")
    assert list(first) == ["Test"]
    assert first["Test"].description.startswith(f"molecules.smi, {reference_set.n} molecules (")
    assert_same(first["Test"].chemnet, reference_set.chemnet)
    monkeypatch.setattr(reference_cache, "build_reference_set", fail_to_build)
    assert_same(load_cached_references(str(source), tmp_path / "cache")["Test"], first["Test"])


def test_the_smiles_column_of_a_reference_file_is_the_one_of_that_name(tmp_path, smiles):
    for name in ("SMILES", "smiles", "structure"):
        rows = [f"{number},{text}" for number, text in enumerate(smiles)]
        (tmp_path / f"{name}.csv").write_text("\n".join([f"id,{name}", *rows]))
    for name in ("SMILES", "smiles"):
        reference(str(tmp_path / f"{name}.csv"), tmp_path / f"{name}.safetensors")
    upper, lower = (load_reference_sets(tmp_path / f"{name}.safetensors")["Test"] for name in ("SMILES", "smiles"))
    assert_same(upper.chemnet, lower.chemnet)
    with pytest.raises(DataError, match=r"which column holds the SMILES\? Name one of id, structure with --column"):
        reference(str(tmp_path / "structure.csv"), tmp_path / "x.safetensors")
    reference(str(tmp_path / "structure.csv"), tmp_path / "x.safetensors", column="structure")


def test_a_damaged_row_of_a_reference_file_is_not_read_from_another_column(tmp_path):
    (tmp_path / "a.csv").write_text("id,smiles\n1,CCO\nN\n2,CCC\n")
    loaded = load_cached_references(str(tmp_path / "a.csv"), tmp_path / "cache")["Test"]
    assert loaded.n == 2 and loaded.description.startswith("a.csv, 2 molecules (")


def test_reference_files_of_the_same_name_and_number_but_different_molecules_are_told_apart(tmp_path, smiles):
    descriptions = set()
    for folder, molecules in (("a", smiles), ("b", smiles[::-1]), ("c", smiles)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "test.smi"
        path.write_text("\n".join(molecules) + "\n")
        descriptions.add(load_cached_references(str(path), tmp_path / "cache")["Test"].description)
    assert len(descriptions) == 2


@pytest.mark.parametrize("load_cached", [load_cached_training_set, load_cached_references])
def test_a_reference_file_with_new_content_is_computed_anew_and_the_old_one_kept(tmp_path, source, smiles, load_cached):
    cache = tmp_path / "cache"
    load_cached(str(source), cache)
    before = set(cache.iterdir())
    source.write_text("CCO\nCCN\nCCC\n")
    loaded = load_cached(str(source), cache)
    assert (loaded["Test"] if isinstance(loaded, dict) else loaded).n == 3
    assert before < set(cache.iterdir()) and len(list(cache.iterdir())) == 2
    source.write_text("\n".join(smiles) + "\n")
    load_cached(str(source), cache)
    assert len(list(cache.iterdir())) == 2


def test_each_column_and_each_kind_of_set_has_a_cached_file_of_its_own(tmp_path):
    path = tmp_path / "molecules.csv"
    path.write_text("alkane,polar\nC,CCO\nCC,CCN\nCCC,CCC\n")
    for column in ("alkane", "polar"):
        training_set = load_cached_training_set(str(path), tmp_path / "cache", column=column)
        assert is_in(["C", "CCO"], training_set.given).tolist() == [column == "alkane", column == "polar"]
        load_cached_references(str(path), tmp_path / "cache", column=column)
    assert len(list((tmp_path / "cache").iterdir())) == 4


@pytest.mark.parametrize("load_cached", [load_cached_training_set, load_cached_references])
def test_a_reference_file_of_one_molecule_is_refused_and_leaves_nothing_in_the_cache(tmp_path, load_cached):
    (tmp_path / "one.smi").write_text("C\n\n\n")
    with pytest.raises(DataError, match=r"one\.smi: 1 molecules are no set to compare with\. Give two or more"):
        load_cached(str(tmp_path / "one.smi"), tmp_path / "cache")
    with pytest.raises(DataError, match=r"none\.smi: no such file\. Give 'moses' or a file of SMILES"):
        load_cached(str(tmp_path / "none.smi"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_cache_folder_is_the_one_that_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLVAE_CACHE", str(tmp_path / "chosen"))
    assert get_cache_folder() == tmp_path / "chosen"
    monkeypatch.delenv("MOLVAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert get_cache_folder() == tmp_path / "molvae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_cache_folder() == tmp_path / ".cache" / "molvae"
