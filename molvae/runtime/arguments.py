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
    _check_range(name, value, Integral, "a whole number", at_least, at_most)
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
    _check_range(name, value, Real, "a finite number", at_least, at_most)
    return float(value)


def _check_range(name: str, value: Any, kind: type, wanted: str, at_least: float, at_most: float) -> None:
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and at_least <= value <= at_most:
        return
    limits = {"at least": at_least, "at most": at_most}
    allowed = "".join(f", {word} {limit:.10g}" for word, limit in limits.items() if math.isfinite(limit))
    raise MolvaeError(f"{name} is {value!r}; give {wanted}{allowed}.")


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
