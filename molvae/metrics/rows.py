"""What RDKit says of each sample, a row each. Runs in worker processes, which should start without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from molvae.chemistry.describe import DESCRIPTORS, canonical, describe, kept_token_fraction
from molvae.chemistry.stable import encoded_again
from molvae.chemistry.standardise import Rejected, parse
from molvae.chemistry.symbols import Caps, decode, split

NONE = dict.fromkeys(DESCRIPTORS)


def describe_rows(pairs: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """Descriptors of (SMILES, SELFIES string or None) pairs; a row that is no molecule has its reason instead."""
    return [_describe_row(smiles, string) for smiles, string in pairs]


def _describe_row(smiles: str, string: str | None) -> dict[str, Any]:
    try:
        mol = parse(smiles)
    except Rejected as why:
        nothing = {"kept_token_fraction": 0.0, "is_stable": False}
        return {"canonical": "", "is_valid": False, "reason": why.reason, **nothing, **NONE}
    form = canonical(mol)
    kept, is_stable = (1.0, True) if string is None else _against(split(string), form)
    found = {"canonical": form, "is_valid": True, "reason": "", "kept_token_fraction": kept, "is_stable": is_stable}
    return found | describe(mol)


def canonical_rows(task: tuple[Sequence[Sequence[str]], Caps]) -> list[tuple[str, float, bool]]:
    """Of strings of symbols: canonical SMILES ("" where none), kept-token fraction, and whether they are stable."""
    strings, caps = task
    rows = []
    for symbols in strings:
        try:
            form = canonical(parse(decode(symbols, caps)))
        except Rejected:
            form = ""
        rows.append((form, *_against(symbols, form)))
    return rows


def _against(symbols: Sequence[str], form: str) -> tuple[float, bool]:
    again = encoded_again(form)
    return kept_token_fraction(symbols, again), bool(again) and again == list(symbols)
