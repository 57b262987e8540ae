import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molvae.chemistry.selfies_codec import caps_for, encode
from molvae.data import bpe
from molvae.data.vocabulary import SPECIAL, UNK, Vocabulary
from molvae.errors import ModelFileError

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "CC(C)Cc1ccc(C(C)C(=O)O)cc1", "CC(=O)Nc1ccc(O)cc1", "CN1CCCC1c1cccnc1"]
SYMBOLS = [encode(one) for one in SMILES]
SINGLE = Vocabulary.build([s for one in SYMBOLS for s in one], caps_for({s for one in SYMBOLS for s in one}))


def flat(molecules):
    ids = np.array([k for one in molecules for k in SINGLE.ids(one)], np.uint16)
    return ids, np.array([len(one) for one in molecules])


def learned(count=20):
    return Vocabulary(SINGLE.symbols, SINGLE.caps, bpe.learn(*flat(SYMBOLS), SINGLE, count))


def parts(ids, lengths):
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


MERGED = learned()


def test_the_first_merge_is_the_most_frequent_pair():
    vocabulary = Vocabulary.build(["[C]", "[O]"], {})
    ids = np.array(vocabulary.ids(["[C]", "[O]"] * 5))
    assert bpe.learn(ids, np.array([8, 2]), vocabulary, 1) == ((4, 5),)


def test_merged_tokens_stand_for_the_symbols_they_were_made_of():
    ids, lengths = bpe.Merger(MERGED).apply(*flat(SYMBOLS))
    assert [MERGED.text(part) for part in parts(ids, lengths)] == SYMBOLS


def test_merging_makes_molecules_shorter():
    _, lengths = bpe.Merger(MERGED).apply(*flat(SYMBOLS))
    assert (lengths < flat(SYMBOLS)[1]).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.sampled_from(SINGLE.symbols), min_size=1, max_size=30), min_size=1, max_size=5))
def test_any_strings_of_symbols_survive_merging(strings):
    ids, lengths = bpe.Merger(MERGED).apply(*flat(strings))
    assert [MERGED.text(part) for part in parts(ids, lengths)] == strings


def test_an_unknown_symbol_stays_where_it_was():
    ids, lengths = bpe.Merger(MERGED).apply(*flat([[*SYMBOLS[0], "[Xx]", *SYMBOLS[1]]]))
    assert MERGED.text(ids) == [*SYMBOLS[0], SPECIAL[UNK], *SYMBOLS[1]]
    assert ids.tolist().count(UNK) == 1


def test_learning_again_gives_the_same_merges():
    assert learned() == MERGED


def test_no_more_merges_are_made_than_there_are_pairs():
    assert len(bpe.learn(*flat([["[C]", "[C]"]]), SINGLE, 50)) == 0
    assert len(learned(100_000).merges) < 200


def test_the_file_keeps_the_merges():
    assert Vocabulary.from_json(json.loads(json.dumps(MERGED.to_json())), "file") == MERGED


@pytest.mark.parametrize("pair", [[4, 10_000], [0, 4], [4, "5"], [4, -1]])
def test_a_merge_of_tokens_that_do_not_exist_is_refused(pair):
    content = MERGED.to_json() | {"merges": [pair]}
    with pytest.raises(ModelFileError, match=r"file: a vocabulary of another version"):
        Vocabulary.from_json(content, "file")
