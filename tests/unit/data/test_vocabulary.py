"""Tokens and ids."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molvae.data.vocabulary import BOS, EOS, PAD, SPECIAL, UNK, Vocabulary
from molvae.errors import ModelFileError

KNOWN = ("[#N]", "[=C]", "[Br]", "[C]", "[O]", "[Ring1]")
VOCABULARY = Vocabulary.build(KNOWN, {"C": 4, "?": 1})
WHERE = "x/vocabulary.json"


@given(st.lists(st.sampled_from(KNOWN)))
def test_symbols_through_ids_and_back_are_the_same_symbols(symbols):
    assert VOCABULARY.text(VOCABULARY.ids(symbols)) == symbols


@given(st.lists(st.integers(len(SPECIAL), len(SPECIAL) + len(KNOWN) - 1)))
def test_ids_through_symbols_and_back_are_the_same_ids(ids):
    assert VOCABULARY.ids(VOCABULARY.text(ids)) == ids


@given(st.permutations(KNOWN))
def test_a_vocabulary_does_not_depend_on_the_order_in_which_symbols_came(symbols):
    assert Vocabulary.build([*symbols, *symbols], {"?": 1, "C": 4}) == VOCABULARY


def test_special_ids_are_distinct_and_stand_for_no_symbol():
    assert sorted([PAD, BOS, EOS, UNK]) == list(range(len(SPECIAL))) == [0, 1, 2, 3]
    assert min(VOCABULARY.ids(KNOWN)) == len(SPECIAL)
    assert len(VOCABULARY) == len(SPECIAL) + len(KNOWN)


def test_a_symbol_the_vocabulary_lacks_is_unknown_and_so_is_the_name_of_a_special_token():
    assert VOCABULARY.ids(["[C]", "[Xe]", "<eos>"]) == [VOCABULARY.ids(["[C]"])[0], UNK, UNK]


def test_text_ends_at_the_first_end_and_leaves_out_padding():
    c, o = VOCABULARY.ids(["[C]", "[O]"])
    assert VOCABULARY.text([BOS, c, o, EOS, c, PAD, PAD]) == ["[C]", "[O]"]
    assert VOCABULARY.text([]) == VOCABULARY.text([EOS, c]) == []


def test_a_vocabulary_survives_its_file():
    content = json.loads(json.dumps(VOCABULARY.to_json()))
    assert Vocabulary.from_json(content, WHERE) == VOCABULARY


@pytest.mark.parametrize("key", ["format_version", "special", "symbols", "caps"])
def test_a_file_without_one_of_its_keys_is_refused_by_name(key):
    content = VOCABULARY.to_json()
    del content[key]
    with pytest.raises(ModelFileError, match=rf"x/vocabulary\.json: this is no vocabulary.*{key}"):
        Vocabulary.from_json(content, WHERE)


@pytest.mark.parametrize(
    ("key", "value"),
    [("format_version", 1), ("special", ["<pad>", "<eos>", "<bos>", "<unk>"]), ("symbols", ["[C]", 7]),
     ("symbols", ["[C]", "[C]"]), ("caps", {"C": "4"}), ("caps", {"C": 1.5})],
)  # fmt: skip
def test_a_file_of_another_version_is_refused(key, value):
    with pytest.raises(ModelFileError, match="vocabulary of another version"):
        Vocabulary.from_json(VOCABULARY.to_json() | {key: value}, WHERE)


@pytest.mark.parametrize("content", [None, [], "text", 7, {"caps": [1]}])
def test_anything_else_is_no_vocabulary(content):
    with pytest.raises(ModelFileError, match="this is no vocabulary of molvae"):
        Vocabulary.from_json(content, WHERE)


@given(st.sets(st.sampled_from(("[Se]", "[I]", "[C]", "<1", "1>"))))
def test_an_extended_vocabulary_keeps_order_merges_and_caps_and_says_where_each_token_went(new):
    merges = ((4, 7), (10, 8), (11, 10))
    own = Vocabulary(KNOWN, VOCABULARY.caps, merges)
    extended = own.extended(new, {"C": 3, "Se": 6})
    assert extended.symbols == (*KNOWN, *sorted(new - {"[C]"})) and extended.caps == {"?": 1, "C": 4, "Se": 6}
    places = extended.ids_of(own, WHERE)
    ordinary = range(len(SPECIAL), len(own))
    assert [extended.text([places[k]]) for k in ordinary] == [own.text([k]) for k in ordinary]
    assert places[: len(SPECIAL)] == [PAD, BOS, EOS, UNK]
    assert Vocabulary.from_json(extended.to_json(), WHERE) == extended


@pytest.mark.parametrize(
    "other",
    [
        Vocabulary(KNOWN[1:], VOCABULARY.caps),
        Vocabulary(KNOWN[::-1], VOCABULARY.caps),
        Vocabulary(KNOWN, {"?": 1, "C": 3}),
        Vocabulary((*KNOWN, "[I]", "[B]"), VOCABULARY.caps),
        Vocabulary(KNOWN, VOCABULARY.caps, ((4, 5),)),
    ],
    ids=["a symbol less", "another order", "another cap", "new ones unsorted", "other merges"],
)
def test_a_vocabulary_that_does_not_extend_another_one_is_refused(other):
    with pytest.raises(
        ModelFileError, match=r"x/vocabulary\.json: does not begin with the symbols, merges and bonding"
    ):
        other.ids_of(VOCABULARY, WHERE)
