"""Text from files as text: what a terminal, a page or a spreadsheet would take for something else. No heavy imports."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from molvae.runtime.credentials import hide_credentials_in

if TYPE_CHECKING:
    import pandas as pd

INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # categories of Unicode: control, format (direction, too), line separators
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def show_invisible(text: str, keep: str = "") -> str:
    r"""Write each control and direction-changing character of a text as its number, so that a reader sees it.

    Args:
        text: any.
        keep: characters to leave.

    >>> print(show_invisible("C\x1b[0m"))
    C\u001b[0m
    """
    if text.isprintable():
        return text
    return "".join(
        char if char in keep or unicodedata.category(char) not in INVISIBLE else f"\\u{ord(char):04x}" for char in text
    )


def format_message(text: str) -> str:
    """Format the text of an error or warning: no secrets, and control characters but line ends are visible.

    Names and texts in it come from files, and libraries put addresses into the texts of their errors.
    """
    return show_invisible(hide_credentials_in(text), keep="\n")


def protect_cell(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would take for a formula; a number stays as it is.

    >>> protect_cell("=1+1"), protect_cell("-0.5"), protect_cell("CCO")
    ("'=1+1", '-0.5', 'CCO')
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def restore_cell(text: str) -> str:
    """Remove the apostrophe of `protect_cell`.

    >>> restore_cell(protect_cell("@here"))
    '@here'
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def protect_table(table: pd.DataFrame) -> pd.DataFrame:
    """Protect each text of a table that is written as CSV; numbers stay as they are."""
    return _convert_texts(table, protect_cell)


def restore_table(table: pd.DataFrame) -> pd.DataFrame:
    """Restore each text of a table that was read from CSV."""
    return _convert_texts(table, restore_cell)


def _convert_texts(table: pd.DataFrame, convert: Callable[[str], str]) -> pd.DataFrame:
    names = [name for name in table if table[name].dtype.kind == "O"]
    return table.assign(
        **{str(name): [convert(value) if isinstance(value, str) else value for value in table[name]] for name in names}
    )
