"""SELFIES symbols and bonding caps."""

from __future__ import annotations

import itertools
import random
import threading

import pytest
import selfies
from rdkit import Chem

from molvae.chemistry.descriptors import kept_token_fraction
from molvae.chemistry.round_trip import encoded_again
from molvae.chemistry.selfies_codec import caps_for, caps_of, decode, encode, in_force, split
from molvae.chemistry.standardise import Rejected, parse, standardise
from molvae.errors import ModelFileError
from molvae.metrics.molecule_table import _decoded_rows, describe_strings, nothing
from molvae.runtime.workers import in_order

EXOTIC = "[Si] [=Si] [SiH2] [Sn] [Se] [As] [Br+1] [Cl+2] [N+1] [=N+1] [O-1] [P] [S+1] [I] [B-1] [13C] [C@] [C@@H1] [/C]"


def canonical(smiles: str) -> str:
    return Chem.MolToSmiles(parse(smiles))


def random_strings(symbols, count: int, seed: int = 0) -> list[list[str]]:
    draw = random.Random(seed)
    return [draw.choices(sorted(symbols), k=draw.randint(1, 60)) for _ in range(count)]


def test_a_molecule_through_symbols_and_back_is_the_same_molecule(smiles, strings, vocabulary):
    for text, symbols in zip(smiles, strings, strict=True):
        assert canonical(decode(symbols, vocabulary.caps)) == standardise(text)


def test_symbols_worked_by_hand():
    assert encode("CC(=O)O") == ["[C]", "[C]", "[=Branch1]", "[C]", "[=O]", "[O]"]
    assert encode("[13CH4]") == ["[13CH4]"]
    assert split("[C][=Branch1][C][=O]") == ["[C]", "[=Branch1]", "[C]", "[=O]"]
    assert decode([], caps_of([])) == decode(["[nop]"], caps_of([])) == ""


@pytest.mark.parametrize(
    "smiles",
    ["CI(C)C", "C$C", "*C", "C~C", "[NH3]->[Fe]", "[F][Pt@SP1]([Cl])([Br])[I]", "[Og]", "[Mc]", "[Ts]C"],
)
def test_what_selfies_cannot_write_is_rejected_with_what_selfies_says(smiles):
    with pytest.raises(Rejected) as caught:
        encode(smiles)
    assert caught.value.reason == "not_selfies"
    assert caught.value.detail


def test_every_element_is_written_or_rejected():
    table = Chem.GetPeriodicTable()
    for number in range(1, 119):
        atom = f"[{table.GetElementSymbol(number)}]"
        try:
            assert canonical(decode(encode(atom), caps_for(encode(atom)))) == atom
        except Rejected as why:
            assert why.reason == "not_selfies"  # noqa: PT017


def test_every_element_and_charge_that_a_symbol_names_has_a_cap_of_its_own():
    caps = caps_for(["[=Si]", "[SiH2]", "[Br+1]", "[/C@@H1]", "[13C]", "[Fe+2]", "[Ring1]", "[=Branch2]", "[nop]"])
    assert set(caps) - set(caps_of([])) == {"Si", "Br+1", "Fe+2"}
    assert caps["Si"] == 4
    assert caps["?"] == 1


def test_no_cap_exceeds_what_rdkit_accepts():
    default = selfies.get_preset_constraints("default")
    for key, cap in caps_for(EXOTIC.split()).items():
        assert key == "?" or Chem.MolFromSmiles(f"[{key}]" + "(*)" * cap) is not None, key
        assert cap <= default.get(key, 8)


def test_random_symbols_are_always_a_molecule_that_rdkit_accepts(strings):
    symbols = {*itertools.chain(*strings), *EXOTIC.split()}
    caps = caps_for(symbols)
    texts = [decode(string, caps) for string in random_strings(symbols, 1500)]
    assert sum(map(bool, texts)) > 1400
    for text in filter(None, texts):
        parse(text)


def test_caps_are_not_a_state_of_the_process():
    string = ["[C]", "[=S]", "[=O]", "[=O]", "[C]"]
    tight, wide = caps_of([]) | {"S": 2}, caps_of([])
    for _ in range(3):
        assert decode(string, wide) == "C=S=O"
        assert decode(string, tight) == "C=S"
        assert encode("CS(C)(=O)=O")[1] == "[S]"
    with in_force(tight):
        assert selfies.decoder("".join(string)) == "C=S"


def test_caps_hold_in_threads_that_take_turns():
    string, found = ["[C]", "[=S]", "[=O]", "[=O]"], {2: set(), 6: set()}

    def work(cap: int) -> None:
        for _ in range(50):
            found[cap].add(decode(string, caps_of([]) | {"S": cap}))

    threads = [threading.Thread(target=work, args=(cap,)) for cap in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {2: {"C=S"}, 6: {"C=S=O"}}


def test_a_process_started_afresh_decodes_under_the_caps_it_is_given():
    strings = [["[C]", "[=S]", "[=O]", "[=O]", "[C]"], ["[Si]", "[C]", "[C]"]]
    both = [caps_for(["[Si]"]) | {"S": 2}, caps_for(["[Si]"])]
    here = [[decode(string, caps) for string in strings] for caps in both]
    assert here[0][0] != here[1][0]
    tasks = [(strings, caps, nothing) for caps in both]
    there = [[canonical(one) for one in decoded] for decoded in here]
    assert [[row["canonical"] for row in rows] for rows in in_order(_decoded_rows, tasks, workers=2)] == there


@pytest.mark.parametrize(
    ("symbols", "caps", "message"),
    [(["[C]", "[foo]"], caps_of([]), r"invalid symbol '\[foo\]'"), (["[C"], caps_of([]), "malformed"),
     (["[C]"], {"C": 4}, "missing '\\?'"), (["[C]"], {"?": 1, "C": -1}, "invalid value")],
)  # fmt: skip
def test_symbols_and_caps_that_no_encoding_makes_are_refused(symbols, caps, message):
    with pytest.raises(ModelFileError, match=message):
        decode(symbols, caps)


def test_molecules_keep_all_their_tokens_and_random_strings_few(smiles, strings, vocabulary):
    for text, symbols in zip(smiles, strings, strict=True):
        assert kept_token_fraction(symbols, encoded_again(standardise(text))) == 1, text
    rows = describe_strings(random_strings({*itertools.chain(*strings)}, 300), vocabulary.caps, of=nothing)
    assert rows["kept_token_fraction"].mean() < 0.3  # a third of the alphabet opens branches or closes bonds early
