"""Checks of the arguments of public calls: one error that names the argument, its value and its range."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from molvae.errors import MolvaeError

Item = TypeVar("Item")


def check_integer(name: str, value: Any, at_least: float = -math.inf, at_most: float = math.inf) -> int:
    """Check that an argument is a whole number in a range.

    Args:
        name: of the argument.
        value: of it.
        at_least: least value.
        at_most: largest value.

    Raises:
        MolvaeError: it is another kind of value (10.0 and True are), or out of the range.

    >>> check_integer("n", 3, 1)
    3
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not at_least <= int(value) <= at_most:
        raise MolvaeError(f"{name} is {value!r}; give a whole number{_describe_range(at_least, at_most)}.")
    return int(value)


def check_number(name: str, value: Any, at_least: float = -math.inf, at_most: float = math.inf) -> float:
    """Check that an argument is a finite number in a range.

    Args:
        name: of the argument.
        value: of it.
        at_least: least value.
        at_most: largest value.

    Raises:
        MolvaeError: it is another kind of value, not finite, or out of the range.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not at_least <= value <= at_most:
        raise MolvaeError(f"{name} is {value!r}; give a finite number{_describe_range(at_least, at_most)}.")
    return float(value)


def _describe_range(at_least: float, at_most: float) -> str:
    limits = {"at least": at_least, "at most": at_most}
    return "".join(f", {word} {limit:.10g}" for word, limit in limits.items() if math.isfinite(limit))


def check_list(name: str, values: Iterable[Item]) -> list[Item]:
    """Make a list of an argument that may be any iterable but a string.

    Raises:
        MolvaeError: it is one string, a table, or no iterable.

    >>> check_list("smiles", ("C", "CC"))
    ['C', 'CC']
    """
    if isinstance(values, Mapping) or hasattr(values, "columns"):
        raise MolvaeError(f"{name} is a {type(values).__name__}; give one column of it.")
    if isinstance(values, str | bytes):
        raise MolvaeError(f"{name} is one string, {values!r}; put it into a list.")
    try:
        return list(values)
    except TypeError:
        raise MolvaeError(f"{name} is {values!r}; give a list.") from None


def check_path(name: str, value: Any) -> Path:
    """Check that an argument is a path, as text or as such.

    Raises:
        MolvaeError: it is another kind of value.
    """
    if not isinstance(value, str | os.PathLike):
        raise MolvaeError(f"{name} is {type(value).__name__} {str(value)[:60]!r}; give a path.")
    return Path(value)
