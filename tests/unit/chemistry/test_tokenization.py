"""Tokenization: SELFIES with brackets."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from molvae.chemistry.selfies_codec import build_constraints, decode_selfies, encode_smiles
from molvae.chemistry.tokenization import detokenize, tokenize
from molvae.errors import ModelFileError, Rejected

TOKENS = ["[C]", "[=C]", "[N]", "[O]", "(", "=(", "#(", ")", "<1", "<2", "<3", "1>", "=1>", "2>", "3>", "."]
UNUSUAL_SMILES = [
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


def test_tokens_of_simple_molecules_are_those_worked_by_hand():
    tokens = ["[O]", "[C]", "<1", "(", "[C]", ")", "[C]", "[C]", "1>"]
    assert tokenize(encode_smiles("OC1(C)CC1")) == tokens
    assert "".join(detokenize(tokens)) == "[O][C][Branch1][C][C][C][C][Ring1][Ring2]"
    assert tokenize(encode_smiles("CC(=O)C")) == ["[C]", "[C]", "=(", "[=O]", ")", "[C]"]
    assert tokenize(encode_smiles("C1=CC=C1")) == ["[C]", "<1", "[=C]", "[C]", "[=C]", "1>"]


@pytest.mark.parametrize("smiles", UNUSUAL_SMILES)
def test_tokens_of_unusual_molecules_detokenize_symbol_for_symbol(smiles):
    symbols = encode_smiles(smiles)
    assert detokenize(tokenize(symbols)) == symbols


def test_tokens_of_real_molecules_detokenize_symbol_for_symbol(smiles):
    for text in smiles:
        symbols = encode_smiles(text)
        assert detokenize(tokenize(symbols)) == symbols
        assert not any("Ring" in token or "Branch" in token for token in tokenize(symbols))


@given(st.lists(st.sampled_from(TOKENS), max_size=40))
def test_any_string_of_tokens_detokenizes_to_selfies_that_decode(tokens):
    symbols = detokenize(tokens)
    assert isinstance(decode_selfies(symbols, build_constraints(symbols)), str)
    atoms = [token for token in tokens if token.startswith("[")]
    kept = [symbol for symbol in symbols if symbol in atoms]
    assert len(kept) >= len(atoms), "an atom is lost"


@given(st.lists(st.sampled_from(TOKENS), max_size=40))
def test_selfies_of_any_string_of_tokens_survive_tokenization(tokens):
    symbols = detokenize(tokens)
    assert detokenize(tokenize(symbols)) == symbols


def test_detokenize_ignores_unmatched_starts_and_ends_of_branches_and_rings():
    assert detokenize([")", "1>", "[C]", ")", "[C]"]) == ["[C]", "[C]"]
    assert detokenize(["<1", "[C]", "(", "[C]", "(", "[O]"]) == detokenize(["[C]", "(", "[C]", "(", "[O]", ")", ")"])
    assert detokenize(["[C]", "(", ")", "[O]"]) == ["[C]", "[O]"]
    assert detokenize(["[C]", "<1", "1>", "[O]"]) == ["[C]", "[O]"], "a ring from an atom to itself"


@pytest.mark.parametrize(
    "symbols", ["[C] [Branch1] [Ring1] [C]", "[C] [C] [Ring1] [Ring1]", "[C] [Ring2] [C]", "[C] [Branch1]"]
)
def test_tokenize_rejects_symbols_that_selfies_never_writes(symbols):
    with pytest.raises(Rejected, match="not_selfies"):
        tokenize(symbols.split())


@pytest.mark.parametrize("token", ["", "C", "<", "<x", "1", "]", "))", "(("])
def test_detokenize_names_a_text_that_is_no_token(token):
    with pytest.raises(ModelFileError, match=re.escape(f"{token!r} is no token")):
        detokenize(["[C]", token])


def test_branches_of_any_length_survive_detokenization():
    for length in [1, 2, 15, 16, 17, 255, 256, 257, 300]:
        tokens = ["[C]", "(", *["[C]"] * length, ")", "[O]"]
        assert tokenize(detokenize(tokens)) == tokens


def test_crossing_rings_survive_tokenization():
    generator = random.Random(0)
    for _ in range(200):
        size, symbols = generator.randint(6, 30), []
        for atom in range(size):
            symbols.append("[C]")
            if atom > 2 and generator.random() < 0.3:
                symbols += ["[Ring1]", ["[Ring1]", "[Ring2]", "[Branch1]"][generator.randint(0, min(2, atom - 2))]]
        assert detokenize(tokenize(symbols)) == symbols


@pytest.mark.parametrize("n", [99, 100, 120])
def test_rings_beyond_those_that_selfies_can_number_are_left_out(n):
    symbols = detokenize(["[C]", *["[C]", "<1", "[C]", "[C]", "1>"] * n])
    smiles = decode_selfies(symbols, build_constraints(["[C]"]))
    assert Chem.MolFromSmiles(smiles).GetRingInfo().NumRings() == 99


@pytest.mark.parametrize("n", [4095, 4096, 4097, 10_000])
def test_tokens_of_branches_and_rings_longer_than_selfies_can_count_decode(n):
    constraints = build_constraints(["[C]", "[O]"])
    branch = decode_selfies(detokenize(["[C]", "(", *["[C]"] * n, ")", "[O]"]), constraints)
    expected = f"C({'C' * n})O" if n <= 4096 else "C" * (n + 1) + "O"
    assert branch == expected
    ring = decode_selfies(detokenize(["[C]", "<1", *["[C]"] * n, "1>"]), constraints)
    assert ring == (f"C1{'C' * (n - 1)}C1" if n <= 4096 else "C" * (n + 1))
