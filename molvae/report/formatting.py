"""Numbers, settings and raw texts as a reader of the report sees them."""

from __future__ import annotations

import json
import math
import re
import shlex
from typing import Any, TypeGuard

from markupsafe import Markup

from molvae.runtime.credentials import hide_credentials
from molvae.runtime.plain_text import show_invisible

LAYOUT = "\n\t"  # control characters of the page itself
MAX_TEXT = 120  # characters of a raw text that are shown


def is_known(value: Any) -> TypeGuard[int | float]:
    """Tell whether a value is a finite number: neither None nor NaN nor a text."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def format_number(value: Any) -> str:
    """Format a number with three or four significant digits and thousands apart; a dash for what is unknown.

    >>> format_number(0.54281), format_number(105), format_number(None)
    ('0.543', '105', '–')
    """
    if not is_known(value):
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}".replace(",", "\u202f")
    size = abs(value)
    if 0 < size < 0.001 or size >= 1e7:
        return f"{value:.2e}"
    return f"{value:.{3 if size < 10 else 1}f}"


def format_count(value: Any) -> str:
    """Format a count that a table may hold as a float."""
    return format_number(int(value)) if is_known(value) and float(value).is_integer() else format_number(value)


def format_signed(value: float) -> str:
    """Format a difference with its sign."""
    return f"{'−' if value < 0 else '+'}{format_number(abs(value))}"


def format_duration(seconds: Any) -> str:
    """Format seconds as hours, minutes and seconds.

    >>> format_duration(3725)
    '1 h 2 min 5 s'
    """
    if not is_known(seconds):
        return "an unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount) or "under 1 s"


def format_setting(value: Any) -> str:
    """Format a setting as one would type it: lists and mappings as JSON, an absent value in words."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else re.sub(r'[{}"]', "", json.dumps(value, ensure_ascii=False)) or "none"


def escape_text(text: Any) -> str:
    """Cut a raw text to MAX_TEXT characters and escape its control and direction-changing characters."""
    escaped = show_invisible(str(text)[:MAX_TEXT])
    return f"{escaped}… ({len(str(text))} characters)" if len(str(text)) > MAX_TEXT else escaped


def finish_value(value: Any) -> Any:
    """Escape the control and direction-changing characters of whatever a template writes but markup."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return show_invisible(value, keep=LAYOUT) if is_text else value


def finish_values(value: Any) -> Any:
    """Escape them in each text of nested lists and dicts."""
    if isinstance(value, dict):
        return {finish_value(key): finish_values(item) for key, item in value.items()}
    return [finish_values(item) for item in value] if isinstance(value, list) else finish_value(value)


def format_source(source: Any) -> str:
    """Format the path or address of a data set, without secrets; an earlier version left them in the counts."""
    return escape_text(hide_credentials(str(source)))


def quote_for_shell(value: Any) -> str:
    """Quote a value for a command that a reader copies into a shell."""
    return shlex.quote(str(value))
