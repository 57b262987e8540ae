"""SELFIES with brackets: branches that say where they end, and rings whose two ends bear a name, in place of numbers.

SELFIES writes the length of a branch before it, and the distance to a ring's other atom behind it. A model that writes
them has to count, over fifty symbols at times, and where it miscounts another molecule comes out. With brackets there
is nothing to count. Methylcyclopropane with a hydroxyl group, OC1(C)CC1:

    [O][C][Branch1][C][C][C][C][Ring1][Ring2]     SELFIES
    [O] [C] <1 ( [C] ) [C] [C] 1>                 with brackets

"(" "=(" "#(" open a branch and ")" ends the one opened last; "<1" stands behind the atom that ring 1 starts at, "1>"
"=1>" where it closes, and the name is free again. Either can be had from the other. Any string of such tokens stands
for some SELFIES, and so for some molecule: an end without a beginning says nothing, a branch without an end ends with
the string.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from selfies.grammar_rules import get_index_from_selfies, get_selfies_from_index

from molvae.chemistry.standardise import Rejected
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ModelFileError

END, DOT = ")", "."
_BRANCH = re.compile(r"\[(.*)Branch(\d)\]")
_RING = re.compile(r"\[(.*)Ring(\d)\]")
_OPEN = re.compile(r"([-=#/\\]*)\(")
_START = re.compile(r"<(\d+)")
_CLOSE = re.compile(r"([-=#/\\]*)(\d+)>")


class _Ring(NamedTuple):
    bond: str
    start: int  # the atom it goes back to


def bracketed(symbols: Sequence[str]) -> list[str]:
    """The tokens that stand for the symbols of a SELFIES string.

    Raises:
        Rejected: `not_selfies`: no string that `selfies.encoder` writes, since a branch is longer than the string, or a
            ring goes back further than to the first atom.
    """
    items: list[str | int | _Ring] = []  # an int is the number of the atom before it
    ends: list[int] = []
    starts: Counter[int] = Counter()  # rings that start at each atom
    atoms, at = 0, 0
    while at < len(symbols):
        symbol, at = symbols[at], at + 1
        if match := _BRANCH.fullmatch(symbol):
            number, at = _number(symbols, at, int(match[2]))
            ends.append(at + number + 1)
            if ends[-1] > (ends[-2] if len(ends) > 1 else len(symbols)):
                raise Rejected("not_selfies", "a branch is longer than the string")
            items.append(f"{match[1]}(")
            continue
        if match := _RING.fullmatch(symbol):
            number, at = _number(symbols, at, int(match[2]))
            ring = _Ring(match[1], atoms - 2 - number)
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
            items.append(END)
            ends.pop()
    if ends:
        raise Rejected("not_selfies", "a branch is longer than the string")
    return _named(items, starts)


def _number(symbols: Sequence[str], at: int, digits: int) -> tuple[int, int]:
    if at + digits > len(symbols):
        raise Rejected("not_selfies", "a number is cut off")
    return get_index_from_selfies(*symbols[at : at + digits]), at + digits


def _named(items: list[str | int | _Ring], starts: Counter[int]) -> list[str]:
    """Tokens, each ring with the least name that is free where it starts."""
    tokens: list[str] = []
    taken: dict[int, list[int]] = {}  # names of the rings that start at an atom, in the order in which they close
    used: set[int] = set()
    for item in items:
        if isinstance(item, str):
            tokens.append(item)
        elif isinstance(item, _Ring):
            name = taken[item.start].pop(0)
            used.discard(name)
            tokens.append(f"{item.bond}{name}>")
        else:
            for _ in range(starts[item]):
                name = next(k for k in range(1, len(used) + 2) if k not in used)
                used.add(name)
                taken.setdefault(item, []).append(name)
                tokens.append(f"<{name}")
    return tokens


def selfies_of(vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    """The symbols of SELFIES that the ids of a string, up to its end, stand for."""
    return plain(vocabulary.text(ids))


def plain(tokens: Iterable[str]) -> list[str]:
    """The symbols of SELFIES that such tokens stand for.

    Raises:
        ModelFileError: one that is none of these tokens.
    """
    symbols: list[str] = []
    outer: list[tuple[str, list[str]]] = []  # of each open branch its bond and what stands before it
    named: dict[str, int] = {}
    atoms = 0
    for token in tokens:
        if token.startswith("[") or token == DOT:
            symbols.append(token)
            atoms += token != DOT
        elif match := _OPEN.fullmatch(token):
            outer.append((match[1], symbols))
            symbols = []
        elif token == END:
            if outer:
                symbols = _closed(outer, symbols)
        elif match := _START.fullmatch(token):
            if atoms:
                named[match[1]] = atoms - 1
        elif match := _CLOSE.fullmatch(token):
            number = atoms - 2 - named.pop(match[2], atoms)
            if number >= 0:
                digits = get_selfies_from_index(number)
                symbols += [f"[{match[1]}Ring{len(digits)}]", *digits]
        else:
            raise ModelFileError(f"{token!r} is no token of SELFIES with brackets.")
    while outer:
        symbols = _closed(outer, symbols)
    return symbols


def _closed(outer: list[tuple[str, list[str]]], branch: list[str]) -> list[str]:
    bond, before = outer.pop()
    if not branch:
        return before
    digits = get_selfies_from_index(len(branch) - 1)
    return [*before, f"[{bond}Branch{len(digits)}]", *digits, *branch]
