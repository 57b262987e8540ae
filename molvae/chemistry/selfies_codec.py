"""SELFIES symbols of a molecule and back, under bonding caps that are a value and not a state of the process.

`selfies` keeps its caps in a global, gives every element outside its table eight bonds (which RDKit then
refuses), and workers started afresh do not inherit the table. Here caps are a plain dict that travels with the
model; each call sees to it that they are the ones in force.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import selfies
from rdkit import Chem, rdBase

from molvae.chemistry.standardise import Rejected
from molvae.errors import ModelFileError

Caps = dict[str, int]  # "C", "N+1", … -> most bonds, explicit hydrogens counted; "?" for any other, never used

_BRACKET_ATOM = re.compile(r"\[\d*([A-Z][a-z]?|[a-z]{1,2})@{0,2}(?:H\d*)?([+-]*\d*)(?::\d+)?\]")
_ATOM_SYMBOL = re.compile(r"^\[[=#/\\]*\d*([A-Z][a-z]?)@{0,2}(?:H\d+)?([+-]\d+)?\]$")
_lock = threading.RLock()


def encode(smiles: str) -> list[str]:
    """SELFIES symbols of a canonical SMILES.

    Raises:
        Rejected: `not_selfies`, with the reason in the detail: the molecule breaks a bonding cap, or holds
            something the grammar has no symbol for.
    """
    try:
        with in_force(caps_of(_elements(smiles))):
            return list(selfies.split_selfies(selfies.encoder(smiles)))
    except (selfies.EncoderError, ValueError) as err:  # ValueError: SELFIES has no such element (Nh, Mc, Ts, Og)
        lines = [line.strip() for line in str(err).splitlines() if line.strip()]
        raise Rejected("not_selfies", "; ".join(lines[:2]) or type(err).__name__) from None


def decode(symbols: Iterable[str], caps: Caps) -> str:
    """SMILES that a sequence of symbols stands for; "" where they stand for no atom.

    Total: any sequence of the symbols that `encode` gives decodes. The result is not canonical.

    Raises:
        ModelFileError: a symbol or a cap that SELFIES does not know, which no `encode` and no `caps_for` makes.
    """
    try:
        with in_force(caps):
            return selfies.decoder("".join(symbols))
    except (selfies.DecoderError, ValueError) as err:
        raise ModelFileError(f"SELFIES refuses a symbol or a bonding cap: {str(err).splitlines()[0]}.") from None


def split(string: str) -> list[str]:
    """The symbols of a SELFIES string."""
    return list(selfies.split_selfies(string))


def caps_for(symbols: Iterable[str]) -> Caps:
    """Bonding caps with an explicit entry for every element and charge that the symbols name."""
    found = {match.groups() for symbol in symbols if (match := _ATOM_SYMBOL.match(symbol))}
    return caps_of(_key(element, charge or "") for element, charge in found)


def caps_of(keys: Iterable[str]) -> Caps:
    """The caps of SELFIES' own table, nowhere above what RDKit accepts, and those of `keys` as RDKit has them."""
    caps = dict(_default_caps())
    for key in keys:
        if key not in caps:
            caps[key] = _most_bonds(key)
    return caps


@contextmanager
def in_force(caps: Caps) -> Iterator[None]:
    """Make `caps` the ones that selfies uses, for one thread at a time."""
    with _lock:
        if selfies.get_semantic_constraints() != caps:
            selfies.set_semantic_constraints(dict(caps))
        yield


@cache
def _default_caps() -> Caps:
    preset = selfies.get_preset_constraints("default")
    return {key: 1 if key == "?" else min(cap, _most_bonds(key)) for key, cap in preset.items()}


@cache
def _most_bonds(key: str) -> int:
    """Most single bonds RDKit lets an atom of this element and charge have, at most 8. Source: trying it."""
    with rdBase.BlockLogs():
        accepted = [n for n in range(9) if Chem.MolFromSmiles(f"[{key}]" + "(*)" * n) is not None]
    return max(accepted, default=0)


def _elements(smiles: str) -> Iterator[str]:
    """The keys of the atoms that a SMILES writes in brackets; the others are all in SELFIES' own table."""
    if "[" in smiles:
        for element, charge in _BRACKET_ATOM.findall(smiles):
            yield _key(element.capitalize(), charge)


def _key(element: str, charge: str) -> str:
    """'N' and '+' -> 'N+1', as selfies names it."""
    if not charge:
        return element
    size = int(charge[1:]) if charge[1:].isdigit() else len(charge)
    return f"{element}{charge[0]}{size}" if size else element
