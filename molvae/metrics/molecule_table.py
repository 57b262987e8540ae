"""Describe samples with RDKit, a row each. Runs in worker processes, which should start without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from molvae.chemistry.descriptor_table import DESCRIPTORS
from molvae.chemistry.descriptors import (
    PARTS,
    Mol,
    compute_descriptors,
    compute_parts,
    compute_token_survival,
    to_canonical_smiles,
)
from molvae.chemistry.round_trip import reencode
from molvae.chemistry.selfies_codec import Constraints, decode_selfies, split_selfies
from molvae.chemistry.standardise import parse_smiles, silence_rdkit
from molvae.errors import Rejected
from molvae.runtime.workers import Workers, map_in_order

if TYPE_CHECKING:
    import pandas as pd

Item = TypeVar("Item")
Row = dict[str, Any]
DescribeFunction = Callable[[Mol], Row]  # of a molecule, values of some of the columns below
NO_VALUES: Row = {**dict.fromkeys(DESCRIPTORS), **dict.fromkeys(PARTS)}
COLUMNS = ["canonical", "is_valid", "reason", "token_survival", "is_round_trip", *NO_VALUES]
TASK_ROWS = 100


def describe_fully(mol: Mol) -> Row:
    """Compute what DESCRIPTORS and PARTS list."""
    return {**compute_descriptors(mol), **compute_parts(mol)}


def describe_nothing(mol: Mol) -> Row:
    """Compute none of it, which leaves what a molecule is: a fifth of the time."""
    return {}


def describe_smiles(
    smiles: Sequence[str], selfies: Sequence[str | None] | None = None, *, workers: int | Workers = 1
) -> pd.DataFrame:
    """Describe SMILES, a row each, in their order. The same text is looked at once.

    Args:
        smiles: as sampled.
        selfies: the strings that the SMILES were decoded from; without them nothing is said about tokens.
        workers: processes.

    Returns:
        columns canonical, is_valid, reason, token_survival, is_round_trip, and those of DESCRIPTORS and PARTS.
    """
    pairs = list(zip(smiles, selfies or [None] * len(smiles), strict=True))
    return _build_table(_describe_pairs, pairs, workers, lambda part: (part,))


def describe_selfies(
    strings: Sequence[Sequence[str]],
    constraints: Constraints,
    *,
    describe: DescribeFunction = describe_fully,
    workers: int | Workers = 1,
) -> pd.DataFrame:
    """Describe SELFIES strings, a row each, with the columns of `describe_smiles`.

    Args:
        strings: as lists of symbols.
        constraints: under which they are decoded.
        describe: a top-level function that computes what is needed of a molecule; other columns are None.
        workers: processes.
    """
    items = [tuple(string) for string in strings]
    return _build_table(_describe_decoded_rows, items, workers, lambda part: (part, constraints, describe))


def warm_up() -> None:
    """Read the tables and patterns that the first molecule of a process would wait for, half a second."""
    describe_rows([("c1ccccc1O", None)])


def describe_rows(pairs: Sequence[tuple[str, str | None]]) -> list[Row]:
    """Describe pairs of a SMILES and its SELFIES string (or None); one that is no molecule has its reason instead."""
    with silence_rdkit():
        return [_describe_row(smiles, _split_symbols(string)) for smiles, string in pairs]


def _describe_pairs(task: tuple[Sequence[tuple[str, str | None]]]) -> list[Row]:
    return describe_rows(*task)


def _split_symbols(string: str | None) -> list[str] | None:
    """Of a SELFIES string; none of one that is damaged."""
    if string is None:
        return None
    try:
        return split_selfies(string)
    except ValueError:
        return []


def _describe_decoded_rows(task: tuple[Sequence[Sequence[str]], Constraints, DescribeFunction]) -> list[Row]:
    strings, constraints, describe = task
    with silence_rdkit():
        return [_describe_row(decode_selfies(symbols, constraints), symbols, describe) for symbols in strings]


def _describe_row(smiles: str, symbols: Sequence[str] | None, describe: DescribeFunction = describe_fully) -> Row:
    try:
        mol = parse_smiles(smiles, silence=False)
    except Rejected as rejection:
        return _describe_rejected(rejection, symbols)
    canonical = to_canonical_smiles(mol)
    tokens = _describe_tokens(symbols, [] if symbols is None else reencode(canonical))
    return {"canonical": canonical, "is_valid": True, "reason": "", **tokens, **NO_VALUES, **describe(mol)}


def _describe_rejected(rejection: Rejected, symbols: Sequence[str] | None) -> Row:
    tokens = _describe_tokens(symbols, [])
    return {"canonical": "", "is_valid": False, "reason": rejection.reason, **tokens, **NO_VALUES}


def _reject_row(task: tuple[Any, ...], rejection: Rejected) -> list[Row]:
    """Describe the one row of a task, which ended its process or took too long."""
    [row], *_ = task
    symbols = row if len(task) > 1 else _split_symbols(row[1])
    return [_describe_rejected(rejection, symbols)]


def _describe_tokens(symbols: Sequence[str] | None, again: list[str]) -> Row:
    """Describe what decoding and encoding again did to a string; None where the string is not known."""
    if symbols is None:
        return {"token_survival": None, "is_round_trip": None}
    is_round_trip = bool(again) and again == list(symbols)
    return {"token_survival": compute_token_survival(symbols, again), "is_round_trip": is_round_trip}


def _build_table(
    work: Callable[[Any], list[Row]],
    items: Sequence[Item],
    workers: int | Workers,
    make_task: Callable[[list[Item]], Any],
) -> pd.DataFrame:
    """Build a table with a row for each item; equal ones are described once. `make_task` makes a task of items."""
    import pandas as pd  # which the workers need not import

    places: dict[Item, int] = {}
    item_places = [places.setdefault(item, len(places)) for item in items]
    distinct = list(places)
    tasks = [make_task(distinct[start : start + TASK_ROWS]) for start in range(0, len(distinct), TASK_ROWS)]
    rows: Iterable[Row] = (row for part in map_in_order(work, tasks, workers, _reject_row) for row in part)
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table if len(distinct) == len(items) else table.iloc[item_places].reset_index(drop=True)
