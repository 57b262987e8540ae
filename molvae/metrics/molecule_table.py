"""What RDKit says of each sample, a row each. Runs in worker processes, which should start without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rdkit import Chem, rdBase

from molvae.chemistry.descriptors import DESCRIPTORS, PARTS, canonical, describe, kept_token_fraction, parts_of
from molvae.chemistry.round_trip import encoded_again
from molvae.chemistry.selfies_codec import Caps, decode, split
from molvae.chemistry.standardise import Rejected, read
from molvae.runtime.workers import Workers, in_order

if TYPE_CHECKING:
    import pandas as pd

Of = Callable[[Chem.Mol], dict[str, Any]]  # of a molecule, values of some of the columns below
NONE: dict[str, Any] = {**dict.fromkeys(DESCRIPTORS), **dict.fromkeys(PARTS)}
TASK_ROWS = 100


def everything(mol: Chem.Mol) -> dict[str, Any]:
    """What DESCRIPTORS and PARTS list."""
    return {**describe(mol), **parts_of(mol)}


def nothing(mol: Chem.Mol) -> dict[str, Any]:
    """None of it, which leaves what a molecule is: a fifth of the time."""
    return {}


def describe_all(
    smiles: Sequence[str], selfies: Sequence[str] | None = None, *, workers: int | Workers = 1
) -> pd.DataFrame:
    """A row for each SMILES, in their order: canonical, is_valid, reason, kept_token_fraction, is_stable, and what
    `molvae.chemistry.descriptors` lists in DESCRIPTORS and PARTS. The same text is looked at once.

    Args:
        selfies: the strings that the SMILES were decoded from; without them nothing is said about tokens.
    """
    pairs = list(zip(smiles, selfies or [None] * len(smiles), strict=True))
    return _gathered(describe_rows, pairs, workers, lambda part: part)


def describe_strings(
    strings: Sequence[Sequence[str]], caps: Caps, *, of: Of = everything, workers: int | Workers = 1
) -> pd.DataFrame:
    """The same for SELFIES strings as lists of symbols, decoded under `caps`.

    Args:
        of: a function of a module, which finds what is wanted of a molecule; the other columns are None.
    """
    return _gathered(_decoded_rows, list(map(tuple, strings)), workers, lambda part: (part, caps, of))


def prepare() -> None:
    """Read the tables and patterns that the first molecule of a process would wait for, half a second."""
    describe_rows([("c1ccccc1O", None)])


def describe_rows(pairs: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """The rows of (SMILES, SELFIES string or None) pairs; one that is no molecule has its reason instead."""
    with rdBase.BlockLogs():
        return [_describe_row(smiles, _symbols(string)) for smiles, string in pairs]


def _symbols(string: str | None) -> list[str] | None:
    """Of a SELFIES string; none of one that is damaged."""
    if string is None:
        return None
    try:
        return split(string)
    except ValueError:
        return []


def _decoded_rows(task: tuple[Sequence[Sequence[str]], Caps, Of]) -> list[dict[str, Any]]:
    strings, caps, of = task
    with rdBase.BlockLogs():
        return [_describe_row(decode(symbols, caps), symbols, of) for symbols in strings]


def _describe_row(smiles: str, symbols: Sequence[str] | None, of: Of = everything) -> dict[str, Any]:
    tokens = {"kept_token_fraction": None if symbols is None else 0.0, "is_stable": None if symbols is None else False}
    try:
        mol = read(smiles)
    except Rejected as why:
        return {"canonical": "", "is_valid": False, "reason": why.reason, **tokens, **NONE}
    form = canonical(mol)
    if symbols is not None:
        again = encoded_again(form)
        tokens = {
            "kept_token_fraction": kept_token_fraction(symbols, again),
            "is_stable": bool(again) and again == list(symbols),
        }
    return {"canonical": form, "is_valid": True, "reason": "", **tokens, **NONE, **of(mol)}


def _gathered(
    work: Callable[[Any], list[dict[str, Any]]], items: Sequence[Any], workers: int | Workers, task: Callable[..., Any]
) -> pd.DataFrame:
    """A row for each item; equal ones are looked at once. `task` makes of some items what `work` takes."""
    import pandas as pd  # which the workers need not import

    places: dict[Any, int] = {}
    rows_of = [places.setdefault(item, len(places)) for item in items]
    distinct = list(places)
    tasks = [task(distinct[start : start + TASK_ROWS]) for start in range(0, len(distinct), TASK_ROWS)]
    rows: Iterable[dict[str, Any]] = (row for part in in_order(work, tasks, workers) for row in part)
    columns = ["canonical", "is_valid", "reason", "kept_token_fraction", "is_stable", *NONE]
    table = pd.DataFrame(rows, columns=columns)
    return table if len(distinct) == len(items) else table.iloc[rows_of].reset_index(drop=True)
