"""Byte-pair merges of SELFIES symbols."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molvae.chemistry.selfies_codec import build_constraints, encode_smiles
from molvae.data import bpe
from molvae.data.vocabulary import SPECIAL, UNK, Vocabulary
from molvae.errors import ModelFileError

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "CC(C)Cc1ccc(C(C)C(=O)O)cc1", "CC(=O)Nc1ccc(O)cc1", "CN1CCCC1c1cccnc1"]
STRINGS = [encode_smiles(smiles) for smiles in SMILES]
SINGLE_SYMBOLS = {symbol for string in STRINGS for symbol in string}
SINGLE = Vocabulary.build(SINGLE_SYMBOLS, build_constraints(SINGLE_SYMBOLS))


def encode_flat(strings):
    ids = np.array([k for string in strings for k in SINGLE.encode(string)], np.uint16)
    return ids, np.array([len(string) for string in strings])


def learn_vocabulary(n_merges=20):
    merges = bpe.learn_merges(*encode_flat(STRINGS), SINGLE, n_merges)
    return Vocabulary(SINGLE.symbols, SINGLE.constraints, merges)


def split_molecules(ids, lengths):
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


MERGED = learn_vocabulary()


def test_first_merge_is_the_most_frequent_pair():
    vocabulary = Vocabulary.build(["[C]", "[O]"], {})
    ids = np.array(vocabulary.encode(["[C]", "[O]"] * 5))
    assert bpe.learn_merges(ids, np.array([8, 2]), vocabulary, 1) == ((4, 5),)


def test_merged_tokens_decode_to_the_symbols_that_they_merge():
    ids, lengths = bpe.MergeEncoder(MERGED).apply(*encode_flat(STRINGS))
    assert [MERGED.decode(part) for part in split_molecules(ids, lengths)] == STRINGS


def test_merges_make_molecules_shorter():
    _, lengths = bpe.MergeEncoder(MERGED).apply(*encode_flat(STRINGS))
    assert (lengths < encode_flat(STRINGS)[1]).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.sampled_from(SINGLE.symbols), min_size=1, max_size=30), min_size=1, max_size=5))
def test_any_strings_of_symbols_survive_merging(strings):
    ids, lengths = bpe.MergeEncoder(MERGED).apply(*encode_flat(strings))
    assert [MERGED.decode(part) for part in split_molecules(ids, lengths)] == strings


def test_merging_keeps_an_unknown_symbol_in_its_place():
    ids, _ = bpe.MergeEncoder(MERGED).apply(*encode_flat([[*STRINGS[0], "[Xx]", *STRINGS[1]]]))
    assert MERGED.decode(ids) == [*STRINGS[0], SPECIAL[UNK], *STRINGS[1]]
    assert ids.tolist().count(UNK) == 1


def test_learning_merges_twice_gives_the_same_merges():
    assert learn_vocabulary() == MERGED


def test_no_more_merges_are_learned_than_there_are_repeated_pairs():
    assert len(bpe.learn_merges(*encode_flat([["[C]", "[C]"]]), SINGLE, 50)) == 0
    assert len(learn_vocabulary(100_000).merges) < 200


def test_vocabulary_merges_survive_a_round_trip_through_json():
    assert Vocabulary.from_json(json.loads(json.dumps(MERGED.to_json())), "file") == MERGED


@pytest.mark.parametrize("pair", [[4, 10_000], [0, 4], [4, "5"], [4, -1]])
def test_vocabulary_with_a_merge_of_tokens_that_do_not_exist_is_refused(pair):
    content = MERGED.to_json() | {"merges": [pair]}
    with pytest.raises(ModelFileError, match=r"file: a vocabulary of another version"):
        Vocabulary.from_json(content, "file")
