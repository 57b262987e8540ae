"""SELFIES symbols and bond constraints."""

from __future__ import annotations

import itertools
import random
import threading

import pytest
import selfies
from rdkit import Chem

from molvae.chemistry.descriptors import compute_token_survival
from molvae.chemistry.round_trip import reencode
from molvae.chemistry.selfies_codec import (
    build_constraints,
    decode_selfies,
    encode_smiles,
    extend_default_constraints,
    split_selfies,
    use_constraints,
)
from molvae.chemistry.standardise import parse_smiles, standardise
from molvae.errors import ModelFileError, Rejected
from molvae.metrics.molecule_table import _describe_decoded_rows, describe_nothing, describe_selfies
from molvae.runtime.workers import map_in_order

UNUSUAL_SYMBOLS = (
    "[Si]", "[=Si]", "[SiH2]", "[Sn]", "[Se]", "[As]", "[Br+1]", "[Cl+2]", "[N+1]", "[=N+1]", "[O-1]", "[P]", "[S+1]",
    "[I]", "[B-1]", "[13C]", "[C@]", "[C@@H1]", "[/C]",
)  # fmt: skip


def canonicalise(smiles: str) -> str:
    return Chem.MolToSmiles(parse_smiles(smiles))


def draw_random_strings(symbols, count: int, seed: int = 0) -> list[list[str]]:
    generator = random.Random(seed)
    return [generator.choices(sorted(symbols), k=generator.randint(1, 60)) for _ in range(count)]


def test_molecules_encoded_as_symbols_and_decoded_are_the_same_molecules(smiles, strings, vocabulary):
    for text, symbols in zip(smiles, strings, strict=True):
        assert canonicalise(decode_selfies(symbols, vocabulary.constraints)) == standardise(text)


def test_selfies_symbols_of_simple_molecules_are_those_worked_by_hand():
    constraints = extend_default_constraints([])
    assert encode_smiles("CC(=O)O") == ["[C]", "[C]", "[=Branch1]", "[C]", "[=O]", "[O]"]
    assert encode_smiles("[13CH4]") == ["[13CH4]"]
    assert split_selfies("[C][=Branch1][C][=O]") == ["[C]", "[=Branch1]", "[C]", "[=O]"]
    assert decode_selfies([], constraints) == decode_selfies(["[nop]"], constraints) == ""


@pytest.mark.parametrize(
    "smiles",
    [
        "CI(C)C",
        "C$C",
        "*C",
        "C~C",
        "[NH3]->[Fe]",
        "[F][Pt@SP1]([Cl])([Br])[I]",
        "[Og]",
        "[Mc]",
        "[Ts]C",
        "F:C",
        "C:[Xe]",
    ],
)
def test_molecules_that_selfies_cannot_write_are_rejected_with_its_message(smiles):
    with pytest.raises(Rejected) as caught:
        encode_smiles(smiles)
    assert caught.value.reason == "not_selfies"
    assert caught.value.detail


def test_each_element_is_encoded_or_rejected():
    table = Chem.GetPeriodicTable()
    for number in range(1, 119):
        atom = f"[{table.GetElementSymbol(number)}]"
        try:
            assert canonicalise(decode_selfies(encode_smiles(atom), build_constraints(encode_smiles(atom)))) == atom
        except Rejected as rejection:
            assert rejection.reason == "not_selfies"  # noqa: PT017


def test_each_element_and_charge_that_a_symbol_names_has_a_constraint():
    constraints = build_constraints(
        ["[=Si]", "[SiH2]", "[Br+1]", "[/C@@H1]", "[13C]", "[Fe+2]", "[Ring1]", "[=Branch2]", "[nop]"]
    )
    assert set(constraints) - set(extend_default_constraints([])) == {"Si", "Br+1", "Fe+2"}
    assert constraints["Si"] == 4
    assert constraints["?"] == 1


def test_constraints_never_exceed_what_rdkit_accepts():
    default = selfies.get_preset_constraints("default")
    for key, max_bonds in build_constraints(UNUSUAL_SYMBOLS).items():
        assert key == "?" or Chem.MolFromSmiles(f"[{key}]" + "(*)" * max_bonds) is not None, key
        assert max_bonds <= default.get(key, 8)


def test_random_symbols_always_decode_to_a_molecule_that_rdkit_accepts(strings):
    symbols = {*itertools.chain(*strings), *UNUSUAL_SYMBOLS}
    constraints = build_constraints(symbols)
    texts = [decode_selfies(string, constraints) for string in draw_random_strings(symbols, 1500)]
    assert sum(map(bool, texts)) > 1400
    for text in filter(None, texts):
        parse_smiles(text)


def test_constraints_are_not_a_state_of_the_process():
    string = ["[C]", "[=S]", "[=O]", "[=O]", "[C]"]
    tight, wide = extend_default_constraints([]) | {"S": 2}, extend_default_constraints([])
    for _ in range(3):
        assert decode_selfies(string, wide) == "C=S=O"
        assert decode_selfies(string, tight) == "C=S"
        assert encode_smiles("CS(C)(=O)=O")[1] == "[S]"
    with use_constraints(tight):
        assert selfies.decoder("".join(string)) == "C=S"


def test_constraints_hold_in_threads_that_take_turns():
    string, decoded = ["[C]", "[=S]", "[=O]", "[=O]"], {2: set(), 6: set()}

    def decode_repeatedly(max_bonds: int) -> None:
        for _ in range(50):
            decoded[max_bonds].add(decode_selfies(string, extend_default_constraints([]) | {"S": max_bonds}))

    threads = [threading.Thread(target=decode_repeatedly, args=(max_bonds,)) for max_bonds in decoded]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoded == {2: {"C=S"}, 6: {"C=S=O"}}


STRING = "[C][=S][=O]"  # sulfur with two, three or four bonds: C=S, C=SO, C=S=O


@pytest.fixture
def octet_rule():
    """The octet rule as the constraints that the user has set: sulfur has two bonds."""
    selfies.set_semantic_constraints("octet_rule")
    yield selfies.get_preset_constraints("octet_rule")
    selfies.set_semantic_constraints("default")


def test_constraints_that_the_user_has_set_hold_after_every_call(octet_rule):
    alphabet, wide = {*selfies.get_semantic_robust_alphabet()}, extend_default_constraints([])
    for _ in range(2):
        assert encode_smiles("C=S=O") == split_selfies(STRING)
        assert decode_selfies(split_selfies(STRING), wide) == "C=S=O"
        assert decode_selfies(split_selfies(STRING), wide | {"S": 3}) == "C=SO"
        assert selfies.get_semantic_constraints() == octet_rule
        assert selfies.get_semantic_robust_alphabet() == alphabet
        assert selfies.decoder(STRING) == "C=S"
        with pytest.raises(selfies.EncoderError, match="semantic constraints"):
            selfies.encoder("C=S=O")


def test_constraints_that_the_user_has_set_hold_after_a_call_that_fails(octet_rule):
    with pytest.raises(Rejected):
        encode_smiles("CI(C)C")
    for symbols, constraints in ((["[foo]"], extend_default_constraints([])), (["[C]"], {"C": 4})):
        with pytest.raises(ModelFileError):
            decode_selfies(symbols, constraints)
    with pytest.raises(KeyboardInterrupt), use_constraints(extend_default_constraints([])):
        raise KeyboardInterrupt
    assert selfies.get_semantic_constraints() == octet_rule
    assert selfies.decoder(STRING) == "C=S"


def test_constraints_within_others_are_in_use_until_they_end():
    wide = extend_default_constraints([])
    with use_constraints(wide | {"S": 3}):
        with use_constraints(wide | {"S": 2}):
            assert selfies.decoder(STRING) == "C=S"
        assert selfies.decoder(STRING) == "C=SO"
    assert selfies.decoder(STRING) == "C=S=O"


def test_many_different_constraints_in_turn_are_each_in_use():
    expected, wide = {2: "C=S", 3: "C=SO", 4: "C=S=O"}, extend_default_constraints([])
    for k in range(60):
        limits = wide | {"S": 2 + k % 3, "Ge": k % 20}
        assert decode_selfies(split_selfies(STRING), limits) == expected[limits["S"]]


def test_worker_processes_decode_under_the_constraints_of_their_task():
    strings = [["[C]", "[=S]", "[=O]", "[=O]", "[C]"], ["[Si]", "[C]", "[C]"]]
    tight, wide = build_constraints(["[Si]"]) | {"S": 2}, build_constraints(["[Si]"])
    expected = [[canonicalise(decode_selfies(string, limits)) for string in strings] for limits in (tight, wide)]
    assert expected[0][0] != expected[1][0]
    tasks = [(strings, constraints, describe_nothing) for constraints in (tight, wide)]
    results = map_in_order(_describe_decoded_rows, tasks, workers=2)
    assert [[row["canonical"] for row in rows] for rows in results] == expected


DEFAULT_CONSTRAINTS = extend_default_constraints([])


@pytest.mark.parametrize(
    ("symbols", "constraints", "message"),
    [
        (["[C]", "[foo]"], DEFAULT_CONSTRAINTS, r"invalid symbol '\[foo\]'"),
        (["[C"], DEFAULT_CONSTRAINTS, "malformed"),
        (["[C]"], {"C": 4}, "missing '\\?'"),
        (["[C]"], {"?": 1, "C": -1}, "invalid value"),
        (["[C]"], {"?": 1, "Qq": 1}, "invalid key 'Qq'"),
        (["[C]"], {"?": 1, "C+": 1}, r"invalid key 'C\+'"),
    ],
)
def test_symbols_and_constraints_that_selfies_does_not_know_are_refused(symbols, constraints, message):
    with pytest.raises(ModelFileError, match=message):
        decode_selfies(symbols, constraints)


def test_tokens_of_molecules_all_survive_a_round_trip_and_those_of_random_strings_rarely(smiles, strings, vocabulary):
    for text, symbols in zip(smiles, strings, strict=True):
        assert compute_token_survival(symbols, reencode(standardise(text))) == 1, text
    random_strings = draw_random_strings({*itertools.chain(*strings)}, 300)
    rows = describe_selfies(random_strings, vocabulary.constraints, describe=describe_nothing)
    assert rows["token_survival"].mean() < 0.3  # a third of the alphabet opens branches or closes bonds early
