"""Tokenization: SELFIES with brackets, where branches say where they end and the two ends of a ring share a name.

SELFIES writes the length of a branch before it, and the distance to a ring's other atom behind it. A model that
generates them has to count, over fifty symbols at times, and where it miscounts another molecule comes out. With
brackets there is nothing to count. Methylcyclopropane with a hydroxyl group, OC1(C)CC1:

    [O][C][Branch1][C][C][C][C][Ring1][Ring2]     SELFIES
    [O] [C] <1 ( [C] ) [C] [C] 1>                 with brackets

"(" "=(" "#(" open a branch and ")" ends the one opened last; "<1" stands behind the atom that ring 1 starts at, "1>"
"=1>" where it closes, and the name is free again. Each form can be converted to the other. Any string of such tokens
stands for some SELFIES, and so for some molecule: an end without a beginning is ignored, a branch without an end ends
with the string. What SELFIES cannot count is left out: a ring over more than MAX_NUMBER atoms is ignored, as is each
after the first MAX_RINGS, and the atoms of a branch of more symbols continue the chain.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from selfies.grammar_rules import get_index_from_selfies, get_selfies_from_index

from molvae.errors import ModelFileError, Rejected

BRANCH_END, DOT = ")", "."
MAX_RINGS = 99  # SELFIES numbers them all, never the same twice, and writes the hundredth %100, which is ring 10
MAX_NUMBER = 16**3 - 1  # that three symbols can write, the most that SELFIES takes behind a branch or a ring
_SELFIES_BRANCH = re.compile(r"\[(.*)Branch(\d)\]")
_SELFIES_RING = re.compile(r"\[(.*)Ring(\d)\]")
_BRANCH_START = re.compile(r"([-=#/\\]*)\(")
_RING_START = re.compile(r"<(\d+)")
_RING_END = re.compile(r"([-=#/\\]*)(\d+)>")


class _Ring(NamedTuple):
    bond: str
    start: int  # the atom it closes to


def tokenize(symbols: Sequence[str]) -> list[str]:
    """Convert the symbols of a SELFIES string to tokens.

    Raises:
        Rejected: `not_selfies`: no string that `selfies.encoder` writes, since a branch is longer than the string, or a
            ring goes back further than to the first atom.

    >>> tokenize(["[O]", "[C]", "[Branch1]", "[C]", "[C]", "[C]", "[C]", "[Ring1]", "[Ring2]"])
    ['[O]', '[C]', '<1', '(', '[C]', ')', '[C]', '[C]', '1>']
    """
    items: list[str | int | _Ring] = []  # an int is the number of the atom before it
    ends: list[int] = []
    starts: Counter[int] = Counter()  # rings that start at each atom
    atoms, at = 0, 0
    while at < len(symbols):
        symbol, at = symbols[at], at + 1
        kind, bond, digits = _classify_symbol(symbol)
        if kind == "branch":
            number, at = _read_number(symbols, at, digits)
            ends.append(at + number + 1)
            if ends[-1] > (ends[-2] if len(ends) > 1 else len(symbols)):
                raise Rejected("not_selfies", "a branch is longer than the string")
            items.append(f"{bond}(")
            continue
        if kind == "ring":
            number, at = _read_number(symbols, at, digits)
            ring = _Ring(bond, atoms - 2 - number)
            if ring.start < 0:
                raise Rejected("not_selfies", "a ring goes back further than to the first atom")
            starts[ring.start] += 1
            items.append(ring)
        else:
            items.append(symbol)
            if symbol != DOT:
                items.append(atoms)
                atoms += 1
        while ends and ends[-1] == at:
            items.append(BRANCH_END)
            ends.pop()
    if ends:
        raise Rejected("not_selfies", "a branch is longer than the string")
    return _name_rings(items, starts)


@lru_cache(maxsize=4096)
def _classify_symbol(symbol: str) -> tuple[Literal["branch", "ring", "atom"], str, int]:
    """Read a SELFIES symbol: its kind, the bond that it names, and the symbols after it that make up its number."""
    if match := _SELFIES_BRANCH.fullmatch(symbol):
        return "branch", match[1], int(match[2])
    if match := _SELFIES_RING.fullmatch(symbol):
        return "ring", match[1], int(match[2])
    return "atom", "", 0


def _read_number(symbols: Sequence[str], at: int, digits: int) -> tuple[int, int]:
    if at + digits > len(symbols):
        raise Rejected("not_selfies", "a number is cut off")
    return get_index_from_selfies(*symbols[at : at + digits]), at + digits


def _name_rings(items: list[str | int | _Ring], starts: Counter[int]) -> list[str]:
    """Tokens, each ring with the least name that is free where it starts."""
    tokens: list[str] = []
    names: dict[int, list[int]] = {}  # of the rings that start at an atom, in the order in which they close
    used: set[int] = set()
    for item in items:
        if isinstance(item, str):
            tokens.append(item)
        elif isinstance(item, _Ring):
            name = names[item.start].pop(0)
            used.discard(name)
            tokens.append(f"{item.bond}{name}>")
        else:
            for _ in range(starts[item]):
                name = next(k for k in range(1, len(used) + 2) if k not in used)
                used.add(name)
                names.setdefault(item, []).append(name)
                tokens.append(f"<{name}")
    return tokens


def detokenize(tokens: Iterable[str]) -> list[str]:
    """Convert tokens to the symbols of a SELFIES string.

    Raises:
        ModelFileError: one of them is no such token.
    """
    symbols: list[str] = []
    outer: list[tuple[str, list[str]]] = []  # of each open branch its bond and what stands before it
    ring_starts: dict[str, int] = {}  # name -> atom
    atoms = rings = 0
    for token in tokens:
        if token.startswith("[") or token == DOT:
            symbols.append(token)
            atoms += token != DOT
        elif match := _BRANCH_START.fullmatch(token):
            outer.append((match[1], symbols))
            symbols = []
        elif token == BRANCH_END:
            if outer:
                symbols = _close_branch(outer, symbols)
        elif match := _RING_START.fullmatch(token):
            if atoms:
                ring_starts[match[1]] = atoms - 1
        elif match := _RING_END.fullmatch(token):
            number = atoms - 2 - ring_starts.pop(match[2], atoms)
            if 0 <= number <= MAX_NUMBER and rings < MAX_RINGS:
                rings += 1
                digits = get_selfies_from_index(number)
                symbols += [f"[{match[1]}Ring{len(digits)}]", *digits]
        else:
            raise ModelFileError(f"{token!r} is no token of SELFIES with brackets.")
    while outer:
        symbols = _close_branch(outer, symbols)
    return symbols


def _close_branch(outer: list[tuple[str, list[str]]], branch: list[str]) -> list[str]:
    bond, before = outer.pop()
    if not branch or len(branch) - 1 > MAX_NUMBER:
        return [*before, *branch]
    digits = get_selfies_from_index(len(branch) - 1)
    return [*before, f"[{bond}Branch{len(digits)}]", *digits, *branch]
