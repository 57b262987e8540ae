"""SMILES to SELFIES symbols and back, under bond constraints that are a value and not a state of the process.

`selfies` keeps its semantic constraints in a global variable, which spawned workers do not inherit, and gives every
element outside its table eight bonds, which RDKit then refuses. Here the constraints are a plain dict that is stored
with the model; each call puts them into use and restores those that a user may have set.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import selfies
from rdkit import Chem, rdBase

from molvae.errors import ModelFileError, Rejected

Constraints = dict[str, int]  # "C", "N+1", … -> most bonds, explicit hydrogens counted; "?": any other, never used

_BRACKET_ATOM = re.compile(r"\[\d*([A-Z][a-z]?|[a-z]{1,2})@{0,2}(?:H\d*)?([+-]*\d*)(?::\d+)?\]")
_ATOM_SYMBOL = re.compile(r"^\[[=#/\\]*\d*([A-Z][a-z]?)@{0,2}(?:H\d+)?([+-]\d+)?\]$")
_lock = threading.RLock()


def encode_smiles(smiles: str) -> list[str]:
    """Encode a SMILES as SELFIES symbols, in its order of atoms.

    Raises:
        Rejected: `not_selfies`, with the reason in the detail: the molecule breaks a bond constraint, or holds
            something the grammar has no symbol for.

    >>> encode_smiles("OC=O")
    ['[O]', '[C]', '[=O]']
    """
    try:
        with use_constraints(extend_default_constraints(_iter_bracket_atoms(smiles))):
            return list(selfies.split_selfies(selfies.encoder(smiles)))
    except (selfies.EncoderError, ValueError, KeyError) as err:
        # ValueError: SELFIES has no such element (Nh, Mc, Ts, Og); KeyError: none that may be aromatic, as in F:C
        lines = [line.strip() for line in str(err).splitlines() if line.strip()]
        raise Rejected("not_selfies", "; ".join(lines[:2]) or type(err).__name__) from None


def decode_selfies(symbols: Iterable[str], constraints: Constraints) -> str:
    """Decode SELFIES symbols to a SMILES; "" where they stand for no atom.

    Total: any sequence of the symbols that `encode_smiles` gives decodes. The result is not canonical.

    Raises:
        ModelFileError: a symbol or a constraint that SELFIES does not know, which neither `encode_smiles` nor
            `build_constraints` makes.
    """
    try:
        with use_constraints(constraints):
            smiles: str = selfies.decoder("".join(symbols))
            return smiles
    except (selfies.DecoderError, ValueError) as err:
        raise ModelFileError(f"SELFIES refuses a symbol or a bond constraint: {str(err).splitlines()[0]}.") from None


def split_selfies(string: str) -> list[str]:
    """Split a SELFIES string into its symbols."""
    return list(selfies.split_selfies(string))


def build_constraints(symbols: Iterable[str]) -> Constraints:
    """Build bond constraints with an explicit entry for every element and charge that the symbols name."""
    atoms = {match.groups() for symbol in symbols if (match := _ATOM_SYMBOL.match(symbol))}
    return extend_default_constraints(_make_key(element, charge or "") for element, charge in atoms)


def extend_default_constraints(keys: Iterable[str]) -> Constraints:
    """Take the constraints of SELFIES, nowhere above what RDKit accepts, and add those of `keys` as RDKit has them."""
    constraints = dict(_load_default_constraints())
    for key in keys:
        if key not in constraints:
            constraints[key] = _find_max_bonds(key)
    return constraints


@contextmanager
def use_constraints(constraints: Constraints) -> Iterator[None]:
    """Make `constraints` the ones that selfies uses, for one thread at a time; those before hold again afterwards."""
    with _lock:
        before = selfies.get_semantic_constraints()
        if before == constraints:
            yield
            return
        selfies.set_semantic_constraints(dict(constraints))
        try:
            yield
        finally:
            selfies.set_semantic_constraints(before)


@cache
def _load_default_constraints() -> Constraints:
    preset = selfies.get_preset_constraints("default")
    return {key: 1 if key == "?" else min(most, _find_max_bonds(key)) for key, most in preset.items()}


@cache
def _find_max_bonds(key: str) -> int:
    """Most single bonds RDKit lets an atom of this element and charge have, at most 8. Source: trying it."""
    with rdBase.BlockLogs():
        accepted = [n for n in range(9) if Chem.MolFromSmiles(f"[{key}]" + "(*)" * n) is not None]
    return max(accepted, default=0)


def _iter_bracket_atoms(smiles: str) -> Iterator[str]:
    """Find the keys of the atoms that a SMILES has in brackets; all others are in the table of SELFIES."""
    if "[" in smiles:
        for element, charge in _BRACKET_ATOM.findall(smiles):
            yield _make_key(element.capitalize(), charge)


def _make_key(element: str, charge: str) -> str:
    """'N' and '+' -> 'N+1', as selfies names it."""
    if not charge:
        return element
    size = int(charge[1:]) if charge[1:].isdigit() else len(charge)
    return f"{element}{charge[0]}{size}" if size else element
