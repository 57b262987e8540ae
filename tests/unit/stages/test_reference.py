"""References and indexes of training molecules: what they hold, as files, and computed once."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from molvae.chemistry.descriptors import canonical, fingerprint, skeleton, without_stereo
from molvae.chemistry.standardise import parse
from molvae.errors import DataError
from molvae.metrics import fcd
from molvae.metrics import reference_sets as references
from molvae.metrics.reference_sets import (
    PROPERTIES,
    Reference,
    Training,
    hashes,
    known,
    read_references,
    read_training,
    reference_of,
    training_of,
    write,
)
from molvae.stages import reference as stage

UNREADABLE = "C(C)(C)(C)(C)C"


@pytest.fixture(scope="module")
def reference(smiles) -> Reference:
    return reference_of(smiles, "a few")


@pytest.fixture(scope="module")
def training(smiles) -> Training:
    return training_of(smiles, "a few")


@pytest.fixture(params=["references", "training"])
def written(request, tmp_path, reference, training):
    """A file of either kind, and what reads it."""
    path = tmp_path / "a.safetensors"
    if request.param == "references":
        write(path, {"Test": reference})
        return path, read_references
    write(path, {"train": training})
    return path, read_training


@pytest.fixture
def source(tmp_path, smiles):
    path = tmp_path / "molecules.smi"
    path.write_text("\n".join(smiles) + "\n")
    return path


def canonical_of(smiles) -> list[str]:
    return [canonical(parse(one)) for one in smiles]


def assert_same(one, other) -> None:
    assert type(one) is type(other)
    for field in fields(one):
        own, its = getattr(one, field.name), getattr(other, field.name)
        if isinstance(own, np.ndarray):
            np.testing.assert_array_equal(own, its)
            assert own.dtype == its.dtype
        elif field.name == "properties":
            assert list(own) == list(its)
            np.testing.assert_array_equal(list(own.values()), list(its.values()))
        elif field.name == "chemnet":
            assert_same(own, its)
        else:
            assert own == its


def test_a_reference_holds_the_statistics_of_its_molecules(smiles, reference):
    forms = canonical_of(smiles)
    assert (reference.about, reference.n) == ("a few", len(smiles))
    assert_same(reference.chemnet, fcd.statistics(forms))
    assert [row.tobytes() for row in reference.fingerprints] == [fingerprint(parse(one)) for one in smiles]
    assert reference.fragments["[3*]O[3*]"] > 1 and reference.fragments.total() > len(smiles)
    assert reference.scaffolds["c1ccc2[nH]ccc2c1"] == 1 and reference.scaffolds.total() < len(smiles)
    assert "" not in reference.scaffolds and "" not in reference.fragments
    assert list(reference.properties) == list(PROPERTIES) == ["logP", "SA", "QED", "weight"]
    assert reference.properties["weight"][0] == pytest.approx(180.159, abs=1e-3)


def test_what_is_no_molecule_is_left_out_of_a_reference_and_counted(smiles, reference):
    found = reference_of([UNREADABLE, *smiles, "", "xx"], "a few more")
    assert found.about == "a few more, 3 of them unreadable and left out"
    assert found.n == len(smiles)
    np.testing.assert_array_equal(found.fingerprints, reference.fingerprints)


def test_a_reference_of_fewer_than_two_molecules_is_refused():
    with pytest.raises(DataError, match="FCD needs at least 2 valid molecules, there are 1"):
        reference_of(["C", UNREADABLE], "one")


def test_a_reference_counts_a_molecule_as_often_as_it_is_there(tmp_path):
    found = reference_of(["CC", "CC", "c1ccc2[nH]ccc2c1", "c1ccc2[nH]ccc2c1", "c1ccc2[nH]ccc2c1"], "five")
    assert found.n == 5 and found.scaffolds == Counter({"c1ccc2[nH]ccc2c1": 3}) and found.fragments["CC"] == 2


def test_training_molecules_are_known_by_each_of_their_forms(smiles, training):
    forms = canonical_of(smiles)
    assert (training.about, training.n) == ("a few", len(smiles))
    np.testing.assert_array_equal(training.given, hashes(smiles))
    np.testing.assert_array_equal(training.canonical, hashes(forms))
    np.testing.assert_array_equal(training.without_stereo, hashes(map(without_stereo, forms)))
    skeletons = [skeleton(parse(one), one) for one in forms]
    np.testing.assert_array_equal(training.skeletons, hashes(skeletons))
    np.testing.assert_array_equal(
        np.unique(training.fingerprints, axis=0),
        np.unique(np.array([list(fingerprint(parse(one))) for one in smiles], dtype=np.uint8), axis=0),
    )


def test_an_unreadable_training_molecule_counts_under_its_own_text_only():
    found = training_of(["OCC", UNREADABLE, "CC"], "three")
    assert found.n == 3 and len(found.fingerprints) == 2
    assert known([UNREADABLE, "OCC", "CCO"], found.given).tolist() == [True, True, False]
    for forms in (found.canonical, found.without_stereo, found.skeletons):
        assert not known([UNREADABLE], forms).any()
    assert known([UNREADABLE, "OCC", "CCO"], found.canonical).tolist() == [False, False, True]
    assert sorted(found.draw) == ["CC", "CCO"]


def test_the_draw_is_the_one_of_guacamol_and_the_draw_of_fewer_its_beginning(smiles, training, monkeypatch):
    order = np.random.RandomState(42).permutation(len(smiles))
    forms = canonical_of(smiles)
    assert training.draw == tuple(forms[row] for row in order)
    monkeypatch.setattr(references, "DRAW", 5)
    assert training_of(smiles, "a few").draw == training.draw[:5]


def test_no_more_fingerprints_are_kept_than_are_asked_for(smiles, training, monkeypatch):
    monkeypatch.setattr(references, "NEIGHBOURS", 9)
    monkeypatch.setattr(references, "TASK_ROWS", 7)  # molecules of several tasks, the last one shorter
    some = training_of(smiles, "a few")
    assert some.fingerprints.shape == (9, 128)
    assert {row.tobytes() for row in some.fingerprints} <= {row.tobytes() for row in training.fingerprints}
    np.testing.assert_array_equal(some.canonical, training.canonical)
    assert some.draw == training.draw


@given(st.lists(st.text(max_size=6), max_size=20), st.lists(st.text(max_size=6), min_size=1, max_size=20))
def test_a_text_is_known_if_it_is_among_the_others(texts, others):
    some = [*texts, *others[:2]]
    assert known(some, hashes(others)).tolist() == [one in others for one in some]


def test_hashes_are_sorted_and_the_same_in_every_version():
    assert hashes(["C"]).tolist() == [809599947829910117]
    found = hashes(str(n) for n in range(1000))
    assert found.dtype == np.uint64 and len(np.unique(found)) == 1000
    assert (np.diff(found.astype(object)) > 0).all()
    assert hashes([]).shape == (0,) and known([], found).shape == (0,)


def test_references_are_read_as_they_were_written(tmp_path, reference):
    path = tmp_path / "new" / "folder" / "a.safetensors"
    chains = reference_of(["CCCC", "CCC", "CC"], "Zeichen: µ")  # without a scaffold
    write(path, {"Test": reference, "TestSF": chains})
    found = read_references(path)
    assert list(found) == ["Test", "TestSF"] and found["TestSF"].scaffolds == {}
    assert_same(found["Test"], reference)
    assert_same(found["TestSF"], chains)


def test_training_molecules_are_read_as_they_were_written(tmp_path, training):
    with pytest.raises(DataError, match="fewer than two of them are molecules that RDKit reads"):
        training_of(["xx", "C", UNREADABLE], "one readable")
    for own in (training, training_of(["xx", "C", "CO", UNREADABLE], "two readable")):
        write(tmp_path / "a.safetensors", {"train": own})
        assert_same(read_training(tmp_path / "a.safetensors"), own)


@pytest.mark.parametrize("how", ["truncate", "randomise", "empty", "replace_by_a_list"])
def test_a_damaged_file_is_named_with_what_to_do(written, damage, how):
    path, read = written
    damage[how](path)
    with pytest.raises(DataError, match=r"a\.safetensors: not a file of `molvae reference` .* Delete it and write it"):
        read(path)


def test_an_absent_file_is_named_with_what_writes_it(written, damage):
    path, read = written
    damage["remove"](path)
    with pytest.raises(DataError, match=r"a\.safetensors: no such file\. `molvae reference` writes it"):
        read(path)


def test_a_folder_is_no_such_file(written):
    path, read = written
    with pytest.raises(DataError, match="not a file of `molvae reference`"):
        read(path.parent)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"weight": np.zeros(3)}, None),
        ({"weight": np.zeros(3)}, {"format": "pt"}),
        ({"train/weight": np.zeros(3)}, {"about": json.dumps({"train": "other", "Test": "other"})}),
        ({"weight": np.zeros(3)}, {"about": "a model"}),
    ],
)
def test_a_file_of_another_program_is_refused(tmp_path, tensors, metadata):
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    for read in (read_references, read_training):
        with pytest.raises(DataError, match="not a file of `molvae reference`"):
            read(tmp_path / "a.safetensors")


def test_a_file_of_the_other_kind_is_refused(tmp_path, reference, training):
    write(tmp_path / "a.safetensors", {"train": reference})
    with pytest.raises(DataError, match="not a file of `molvae reference`"):
        read_training(tmp_path / "a.safetensors")
    write(tmp_path / "a.safetensors", {"train": training})
    with pytest.raises(DataError, match="not a file of `molvae reference`"):
        read_references(tmp_path / "a.safetensors")


def refuse(*_, **__):
    raise AssertionError("computed again")


def test_the_index_of_a_file_is_computed_once(tmp_path, source, training, monkeypatch):
    first = stage.cached_training(str(source), tmp_path / "cache")
    assert re.fullmatch(rf"molecules\.smi, {training.n} molecules \(SHA-256 \w{{8}}\)", first.about)
    monkeypatch.setattr(stage, "training_of", refuse)
    assert_same(stage.cached_training(str(source), tmp_path / "cache"), first)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(AssertionError, match="computed again"):
        stage.cached_training(str(source), tmp_path / "other cache")


def test_the_column_of_a_file_is_the_one_that_is_called_so(tmp_path, smiles):
    for name in ("SMILES", "smiles", "structure"):
        (tmp_path / f"{name}.csv").write_text("\n".join([f"id,{name}", *(f"{k},{s}" for k, s in enumerate(smiles))]))
    for name in ("SMILES", "smiles"):
        stage.reference(str(tmp_path / f"{name}.csv"), tmp_path / f"{name}.safetensors")
    one, other = (read_references(tmp_path / f"{name}.safetensors")["Test"] for name in ("SMILES", "smiles"))
    assert_same(one.chemnet, other.chemnet)
    with pytest.raises(DataError, match=r"which column holds the SMILES\? Name one of id, structure with --column"):
        stage.reference(str(tmp_path / "structure.csv"), tmp_path / "x.safetensors")
    stage.reference(str(tmp_path / "structure.csv"), tmp_path / "x.safetensors", column="structure")


def test_a_damaged_row_of_a_reference_is_no_molecule_of_another_column(tmp_path):
    (tmp_path / "a.csv").write_text("id,smiles\n1,CCO\nN\n2,CCC\n")
    found = stage.cached_references(str(tmp_path / "a.csv"), tmp_path / "cache")["Test"]
    assert found.n == 2 and found.about.startswith("a.csv, 2 molecules (")


def test_other_molecules_of_the_same_name_and_number_are_told_apart(tmp_path, smiles):
    abouts = set()
    for folder, some in (("a", smiles), ("b", smiles[::-1]), ("c", smiles)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.smi").write_text("\n".join(some) + "\n")
        abouts.add(stage.cached_references(str(tmp_path / folder / "test.smi"), tmp_path / "cache")["Test"].about)
    assert len(abouts) == 2


def test_the_statistics_of_a_file_are_computed_once(tmp_path, source, reference, monkeypatch):
    first = stage.cached_references(str(source), tmp_path / "cache")
    assert list(first) == ["Test"] and first["Test"].about.startswith(f"molecules.smi, {reference.n} molecules (")
    assert_same(first["Test"].chemnet, reference.chemnet)
    monkeypatch.setattr(stage, "reference_of", refuse)
    assert_same(stage.cached_references(str(source), tmp_path / "cache")["Test"], first["Test"])


@pytest.mark.parametrize("cached", [stage.cached_training, stage.cached_references])
def test_another_content_of_a_file_is_computed_anew_and_the_old_one_kept(tmp_path, source, smiles, cached):
    cache = tmp_path / "cache"
    cached(str(source), cache)
    before = set(cache.iterdir())
    source.write_text("CCO\nCCN\nCCC\n")
    again = cached(str(source), cache)
    assert (again["Test"] if isinstance(again, dict) else again).n == 3
    assert before < set(cache.iterdir()) and len(list(cache.iterdir())) == 2
    source.write_text("\n".join(smiles) + "\n")
    cached(str(source), cache)
    assert len(list(cache.iterdir())) == 2


def test_the_two_kinds_and_other_columns_have_their_own_files(tmp_path):
    path = tmp_path / "molecules.csv"
    path.write_text("one,other\nC,CCO\nCC,CCN\nCCC,CCC\n")
    for column in ("one", "other"):
        found = stage.cached_training(str(path), tmp_path / "cache", column=column)
        assert known(["C", "CCO"], found.given).tolist() == [column == "one", column == "other"]
        stage.cached_references(str(path), tmp_path / "cache", column=column)
    assert len(list((tmp_path / "cache").iterdir())) == 4


@pytest.mark.parametrize("cached", [stage.cached_training, stage.cached_references])
def test_a_file_of_one_molecule_is_no_set_and_leaves_nothing_in_the_cache(tmp_path, cached):
    (tmp_path / "one.smi").write_text("C\n\n\n")
    with pytest.raises(DataError, match=r"one\.smi: 1 molecules are no set to compare with\. Give two or more"):
        cached(str(tmp_path / "one.smi"), tmp_path / "cache")
    with pytest.raises(DataError, match=r"none\.smi: no such file\. Give 'moses' or a file of SMILES"):
        cached(str(tmp_path / "none.smi"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLVAE_CACHE", str(tmp_path / "own"))
    assert stage.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("MOLVAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert stage.cache_folder() == tmp_path / "molvae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert stage.cache_folder() == tmp_path / ".cache" / "molvae"
