"""Round-trip consistency: strings of the training data are consistent, those that SELFIES reads otherwise are not."""

from __future__ import annotations

import pytest

from molvae.chemistry.round_trip import check_round_trips, compute_round_trip_smiles, is_round_trip, reencode
from molvae.chemistry.selfies_codec import build_constraints, encode_smiles, split_selfies
from molvae.chemistry.standardise import standardise


def test_strings_of_canonical_molecules_are_round_trip_consistent(smiles, strings, vocabulary):
    assert check_round_trips((strings, vocabulary.constraints)) == [True] * len(strings)
    for text, symbols in zip(smiles, strings, strict=True):
        assert compute_round_trip_smiles(symbols, vocabulary.constraints) == standardise(text)


@pytest.mark.parametrize(
    ("string", "reason"),
    [
        ("[O][C][C]", "the canonical SMILES starts at the other end"),
        ("[C][F][C]", "fluorine has no second bond: what follows is lost"),
        ("[C][=C][C][=C][C][=C]", "a chain of six, not benzene: canonical, but written with other bonds first"),
        ("[C][Ring1][C]", "a ring of one atom is none"),
        ("[Branch1]", "no molecule at all"),
        ("", "nothing"),
    ],
)
def test_strings_that_are_read_as_another_string_are_not_round_trip_consistent(string, reason):
    symbols = split_selfies(string)
    expected = encode_smiles(standardise("C=CC=CC=C")) == symbols if "chain" in reason else False
    constraints = build_constraints(symbols)
    assert is_round_trip(symbols, constraints) is expected, reason
    assert bool(compute_round_trip_smiles(symbols, constraints)) is expected, reason


def test_reencoding_a_molecule_that_selfies_cannot_write_gives_no_symbols():
    assert reencode("") == [] and reencode("C$C") == []
    assert reencode("CCO") == ["[C]", "[C]", "[O]"]
