"""SELFIES with brackets."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molvae.chemistry.selfies_codec import caps_for, decode, encode
from molvae.chemistry.standardise import Rejected
from molvae.chemistry.tokenization import bracketed, plain
from molvae.errors import ModelFileError

TOKENS = ["[C]", "[=C]", "[N]", "[O]", "(", "=(", "#(", ")", "<1", "<2", "<3", "1>", "=1>", "2>", "3>", "."]
CAGES = [
    "C12C3C4C1C5C2C3C45",  # cubane
    "C1C2CC3CC1CC(C2)C3",  # adamantane
    "c1ccc2c(c1)ccc1c2ccc2ccccc12",
    "F/C=C/C1CC1",
    "C/C1=C/CCCCCC1",
    "[Na+].[Cl-]",
    "CC(C)(C(=O)OCC(CO)(CO)CC(C)C(C)C(C)C(C)C(C)C(C)C(C)C(C)C(C)CC)C#N",
    "C1CC1" * 12,  # the name of a ring that has closed is free again
    "[13CH3][C@@H](N)C(=O)[O-]",
]


def test_a_molecule_worked_by_hand():
    tokens = ["[O]", "[C]", "<1", "(", "[C]", ")", "[C]", "[C]", "1>"]
    assert bracketed(encode("OC1(C)CC1")) == tokens
    assert "".join(plain(tokens)) == "[O][C][Branch1][C][C][C][C][Ring1][Ring2]"
    assert bracketed(encode("CC(=O)C")) == ["[C]", "[C]", "=(", "[=O]", ")", "[C]"]
    assert bracketed(encode("C1=CC=C1")) == ["[C]", "<1", "[=C]", "[C]", "[=C]", "1>"]


@pytest.mark.parametrize("smiles", CAGES)
def test_what_selfies_writes_comes_back_symbol_for_symbol(smiles):
    symbols = encode(smiles)
    assert plain(bracketed(symbols)) == symbols


def test_real_molecules_come_back_symbol_for_symbol(smiles):
    for text in smiles:
        symbols = encode(text)
        assert plain(bracketed(symbols)) == symbols
        assert not any("Ring" in token or "Branch" in token for token in bracketed(symbols))


@given(st.lists(st.sampled_from(TOKENS), max_size=40))
def test_any_string_of_tokens_is_some_selfies(tokens):
    symbols = plain(tokens)
    assert isinstance(decode(symbols, caps_for(symbols)), str)
    atoms = [token for token in tokens if token.startswith("[")]
    written = [symbol for symbol in symbols if symbol in atoms]
    assert len(written) >= len(atoms), "an atom is lost"


@given(st.lists(st.sampled_from(TOKENS), max_size=40))
def test_brackets_of_the_selfies_of_any_tokens_say_the_same(tokens):
    symbols = plain(tokens)
    assert plain(bracketed(symbols)) == symbols


def test_ends_without_a_beginning_and_beginnings_without_an_end_are_no_fault():
    assert plain([")", "1>", "[C]", ")", "[C]"]) == ["[C]", "[C]"]
    assert plain(["<1", "[C]", "(", "[C]", "(", "[O]"]) == plain(["[C]", "(", "[C]", "(", "[O]", ")", ")"])
    assert plain(["[C]", "(", ")", "[O]"]) == ["[C]", "[O]"]
    assert plain(["[C]", "<1", "1>", "[O]"]) == ["[C]", "[O]"], "a ring from an atom to itself"


@pytest.mark.parametrize(
    "symbols", ["[C] [Branch1] [Ring1] [C]", "[C] [C] [Ring1] [Ring1]", "[C] [Ring2] [C]", "[C] [Branch1]"]
)
def test_what_selfies_never_writes_is_rejected(symbols):
    with pytest.raises(Rejected, match="not_selfies"):
        bracketed(symbols.split())


@pytest.mark.parametrize("token", ["", "C", "<", "<x", "1", "]", "))", "(("])
def test_what_is_no_token_is_named(token):
    with pytest.raises(ModelFileError, match="no token"):
        plain(["[C]", token])


def test_a_branch_of_any_length_keeps_its_end():
    for length in [1, 2, 15, 16, 17, 255, 256, 257, 300]:
        tokens = ["[C]", "(", *["[C]"] * length, ")", "[O]"]
        assert bracketed(plain(tokens)) == tokens


def test_rings_that_cross_keep_their_names():
    draw = random.Random(0)
    for _ in range(200):
        size, symbols = draw.randint(6, 30), []
        for atom in range(size):
            symbols.append("[C]")
            if atom > 2 and draw.random() < 0.3:
                symbols += ["[Ring1]", ["[Ring1]", "[Ring2]", "[Branch1]"][draw.randint(0, min(2, atom - 2))]]
        assert plain(bracketed(symbols)) == symbols
