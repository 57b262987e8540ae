"""Generators side by side on one self-contained HTML page, without any script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from molvae.report.page import FOLDER, template
from molvae.report.summary import BESIDE, BETTER, latent_rows, number

TONES = {"better": "good", "worse": "poor", "different": "between"}
WIDTH, HEIGHT = 160, 14  # of the drawing of an interval


def render(content: Mapping[str, Any]) -> str:
    """The page of a comparison as the text of one HTML file.

    Args:
        content: what `molvae.stages.compare.compare` returns.
    """
    page = template("comparison.html.j2", signed=signed, drawn=drawn, counted=counted)
    style = Markup((FOLDER / "report.css").read_text("utf-8"))
    rows = latent_rows(content.get("cards") or {})
    return page.render(
        content=content, style=style, better=BETTER, tones=TONES, latent_rows=rows, beside=BESIDE
    ).lstrip()  # fmt: skip


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"{'−' if value < 0 else '+'}{number(abs(value))}"


def counted(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """How many figures have each verdict, the most frequent first."""
    return Counter(row["verdict"] for row in rows).most_common()


def drawn(row: Mapping[str, Any]) -> Markup:
    """The interval as a line and the difference as a dot, beside the line of no difference."""
    low, high = row["interval"]
    scale = (WIDTH / 2 - 4) / (max(abs(low), abs(high)) or 1)
    left, right, dot = (WIDTH / 2 + scale * value for value in (low, high, row["difference"]))
    middle = HEIGHT / 2
    zero = f'<path d="M{WIDTH / 2:.0f} 0V{HEIGHT}" stroke="currentColor" stroke-opacity=".35" stroke-dasharray="2 2"/>'
    line = f'<path d="M{left:.1f} {middle}H{right:.1f}" stroke="currentColor" stroke-width="2"/>'
    circle = f'<circle cx="{dot:.1f}" cy="{middle}" r="3.5" fill="currentColor"/>'
    return Markup(f'<svg width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">{zero}{line}{circle}</svg>')
