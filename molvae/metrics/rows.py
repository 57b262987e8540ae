"""What RDKit says of each sample, a row each. Runs in worker processes, which should start without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from molvae.chemistry.describe import DESCRIPTORS, canonical, describe, kept_token_fraction
from molvae.chemistry.standardise import Rejected, parse
from molvae.chemistry.symbols import split

NONE = dict.fromkeys(DESCRIPTORS)


def describe_rows(pairs: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """Descriptors of (SMILES, SELFIES string or None) pairs; a row that is no molecule has its reason instead."""
    return [_describe_row(smiles, string) for smiles, string in pairs]


def _describe_row(smiles: str, string: str | None) -> dict[str, Any]:
    try:
        mol = parse(smiles)
    except Rejected as why:
        return {"canonical": "", "is_valid": False, "reason": why.reason, "kept_token_fraction": 0.0, **NONE}
    form = canonical(mol)
    kept = kept_token_fraction(split(string), form) if string is not None else 1.0
    return {"canonical": form, "is_valid": True, "reason": "", "kept_token_fraction": kept, **describe(mol)}


def canonical_rows(task: tuple[Sequence[Sequence[str]], dict[str, int]]) -> list[tuple[str, float]]:
    """Canonical SMILES ("" where none) and kept-token fraction of strings of symbols, under given bonding caps."""
    from molvae.chemistry.symbols import decode

    strings, caps = task
    rows = []
    for symbols in strings:
        try:
            form = canonical(parse(decode(symbols, caps)))
        except Rejected:
            form = ""
        rows.append((form, kept_token_fraction(symbols, form)))
    return rows
