"""The vocabulary: tokens and their ids."""

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
def test_symbols_encoded_as_ids_decode_to_the_same_symbols(symbols):
    assert VOCABULARY.decode(VOCABULARY.encode(symbols)) == symbols


@given(st.lists(st.integers(len(SPECIAL), len(SPECIAL) + len(KNOWN) - 1)))
def test_ids_decoded_to_symbols_encode_to_the_same_ids(ids):
    assert VOCABULARY.encode(VOCABULARY.decode(ids)) == ids


@given(st.permutations(KNOWN))
def test_vocabulary_does_not_depend_on_the_order_of_its_symbols(symbols):
    assert Vocabulary.build([*symbols, *symbols], {"?": 1, "C": 4}) == VOCABULARY


def test_special_ids_are_distinct_and_stand_for_no_symbol():
    assert sorted([PAD, BOS, EOS, UNK]) == list(range(len(SPECIAL))) == [0, 1, 2, 3]
    assert min(VOCABULARY.encode(KNOWN)) == len(SPECIAL)
    assert len(VOCABULARY) == len(SPECIAL) + len(KNOWN)


def test_vocabulary_encodes_new_symbols_and_names_of_special_tokens_as_unknown():
    assert VOCABULARY.encode(["[C]", "[Xe]", "<eos>"]) == [VOCABULARY.encode(["[C]"])[0], UNK, UNK]


def test_decoded_symbols_end_at_the_first_eos_and_leave_out_padding():
    c, o = VOCABULARY.encode(["[C]", "[O]"])
    assert VOCABULARY.decode([BOS, c, o, EOS, c, PAD, PAD]) == ["[C]", "[O]"]
    assert VOCABULARY.decode([]) == VOCABULARY.decode([EOS, c]) == []


def test_vocabulary_survives_a_round_trip_through_json():
    content = json.loads(json.dumps(VOCABULARY.to_json()))
    assert Vocabulary.from_json(content, WHERE) == VOCABULARY


@pytest.mark.parametrize("key", ["format_version", "special", "symbols", "constraints"])
def test_vocabulary_file_without_one_of_its_keys_is_refused_by_name(key):
    content = VOCABULARY.to_json()
    del content[key]
    with pytest.raises(ModelFileError, match=rf"x/vocabulary\.json: this is no vocabulary.*{key}"):
        Vocabulary.from_json(content, WHERE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", 1),
        ("format_version", 2),
        ("special", ["<pad>", "<eos>", "<bos>", "<unk>"]),
        ("symbols", ["[C]", 7]),
        ("symbols", ["[C]", "[C]"]),
        ("constraints", {"C": "4"}),
        ("constraints", {"C": 1.5}),
    ],
)
def test_vocabulary_file_of_another_version_is_refused(key, value):
    with pytest.raises(ModelFileError, match="vocabulary of another version"):
        Vocabulary.from_json(VOCABULARY.to_json() | {key: value}, WHERE)


@pytest.mark.parametrize("content", [None, [], "text", 7, {"constraints": [1]}])
def test_content_of_another_kind_is_no_vocabulary(content):
    with pytest.raises(ModelFileError, match="this is no vocabulary of molvae"):
        Vocabulary.from_json(content, WHERE)


@given(st.sets(st.sampled_from(("[Se]", "[I]", "[C]", "<1", "1>"))))
def test_extended_vocabulary_keeps_order_merges_and_constraints_and_maps_the_ids_of_its_base(new):
    base = Vocabulary(KNOWN, VOCABULARY.constraints, ((4, 7), (10, 8), (11, 10)))
    extended = base.extend(new, {"C": 3, "Se": 6})
    assert extended.symbols == (*KNOWN, *sorted(new - {"[C]"})) and extended.constraints == {"?": 1, "C": 4, "Se": 6}
    ids = extended.map_ids_from(base, WHERE)
    not_special = range(len(SPECIAL), len(base))
    assert [extended.decode([ids[k]]) for k in not_special] == [base.decode([k]) for k in not_special]
    assert ids[: len(SPECIAL)] == [PAD, BOS, EOS, UNK]
    assert Vocabulary.from_json(extended.to_json(), WHERE) == extended


@pytest.mark.parametrize(
    "unrelated",
    [
        Vocabulary(KNOWN[1:], VOCABULARY.constraints),
        Vocabulary(KNOWN[::-1], VOCABULARY.constraints),
        Vocabulary(KNOWN, {"?": 1, "C": 3}),
        Vocabulary((*KNOWN, "[I]", "[B]"), VOCABULARY.constraints),
        Vocabulary(KNOWN, VOCABULARY.constraints, ((4, 5),)),
    ],
    ids=["a symbol less", "another order", "another constraint", "new symbols unsorted", "other merges"],
)
def test_vocabulary_that_does_not_extend_the_base_is_refused(unrelated):
    message = r"x/vocabulary\.json: does not begin with the symbols, merges and bond constraints"
    with pytest.raises(ModelFileError, match=message):
        unrelated.map_ids_from(VOCABULARY, WHERE)


def test_many_long_merges_are_refused_before_they_take_memory():
    doubling = [[4 + k if k else 4, 4 + k if k else 4] for k in range(12)]  # the last stands for 4096 symbols
    content = Vocabulary(("[C]",), {}).to_json() | {"merges": [*doubling, *[[15, 15]] * 3000]}
    with pytest.raises(ModelFileError, match="another version"):
        Vocabulary.from_json(content, "model.json")
    content["merges"] = content["merges"][:100]
    assert len(Vocabulary.from_json(content, "model.json")) == 105
