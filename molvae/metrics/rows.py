"""What RDKit says of each sample, a row each. Runs in worker processes, which should start without torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rdkit import rdBase

from molvae.chemistry.describe import DESCRIPTORS, PARTS, canonical, describe, kept_token_fraction, parts_of
from molvae.chemistry.stable import encoded_again
from molvae.chemistry.standardise import Rejected, read
from molvae.chemistry.symbols import Caps, decode, split
from molvae.parallel import Workers, in_order

if TYPE_CHECKING:
    import pandas as pd

NONE: dict[str, Any] = {**dict.fromkeys(DESCRIPTORS), **dict.fromkeys(PARTS)}
TASK_ROWS = 100


def describe_all(
    smiles: Sequence[str], selfies: Sequence[str] | None = None, *, workers: int | Workers = 1
) -> pd.DataFrame:
    """A row for each SMILES, in their order: canonical, is_valid, reason, kept_token_fraction, is_stable, and what
    `molvae.chemistry.describe` lists in DESCRIPTORS and PARTS. The same text is looked at once.

    Args:
        selfies: the strings that the SMILES were decoded from; without them nothing is said about tokens.
    """
    pairs = list(zip(smiles, selfies or [None] * len(smiles), strict=True))
    distinct = list(dict.fromkeys(pairs))
    table = _gathered(describe_rows, [distinct[n : n + TASK_ROWS] for n in range(0, len(distinct), TASK_ROWS)], workers)
    if len(distinct) == len(pairs):
        return table
    place = {pair: number for number, pair in enumerate(distinct)}
    return table.iloc[[place[pair] for pair in pairs]].reset_index(drop=True)


def describe_strings(
    strings: Sequence[Sequence[str]], caps: Caps, *, identity_only: bool = False, workers: int | Workers = 1
) -> pd.DataFrame:
    """The same for SELFIES strings as lists of symbols, decoded under `caps`.

    Args:
        identity_only: leave out what DESCRIPTORS and PARTS list, which takes four fifths of the time: None instead.
    """
    tasks = [(strings[start : start + TASK_ROWS], caps, identity_only) for start in range(0, len(strings), TASK_ROWS)]
    return _gathered(_decoded_rows, tasks, workers)


def prepare() -> None:
    """Read the tables and patterns that the first molecule of a process would wait for, half a second."""
    describe_rows([("c1ccccc1O", None)])


def describe_rows(pairs: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """The rows of (SMILES, SELFIES string or None) pairs; one that is no molecule has its reason instead."""
    with rdBase.BlockLogs():
        return [_describe_row(smiles, None if string is None else split(string)) for smiles, string in pairs]


def _decoded_rows(task: tuple[Sequence[Sequence[str]], Caps, bool]) -> list[dict[str, Any]]:
    strings, caps, identity_only = task
    with rdBase.BlockLogs():
        return [_describe_row(decode(symbols, caps), symbols, identity_only) for symbols in strings]


def _describe_row(smiles: str, symbols: Sequence[str] | None, identity_only: bool = False) -> dict[str, Any]:
    nothing = {"kept_token_fraction": None if symbols is None else 0.0, "is_stable": None if symbols is None else False}
    try:
        mol = read(smiles)
    except Rejected as why:
        return {"canonical": "", "is_valid": False, "reason": why.reason, **nothing, **NONE}
    form = canonical(mol)
    if symbols is not None:
        again = encoded_again(form)
        nothing = {
            "kept_token_fraction": kept_token_fraction(symbols, again),
            "is_stable": bool(again) and again == list(symbols),
        }
    found = NONE if identity_only else {**describe(mol), **parts_of(mol)}
    return {"canonical": form, "is_valid": True, "reason": "", **nothing, **found}


def _gathered(work: Any, tasks: Sequence[Any], workers: int | Workers) -> pd.DataFrame:
    import pandas as pd  # which the workers need not import

    rows: Iterable[dict[str, Any]] = (row for part in in_order(work, tasks, workers) for row in part)
    columns = ["canonical", "is_valid", "reason", "kept_token_fraction", "is_stable", *NONE]
    return pd.DataFrame(rows, columns=columns)
