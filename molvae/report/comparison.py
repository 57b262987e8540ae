"""The comparison: generators side by side on one self-contained HTML page, without any script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from molvae.report.page import FOLDER, load_template
from molvae.report.tables import BETTER, LATENT_BASELINES, build_latent_rows

TONES = {"better": "good", "worse": "poor", "different": "between"}
WIDTH, HEIGHT = 160, 14  # pixels of the drawing of an interval


def render_comparison(content: Mapping[str, Any]) -> str:
    """Render a comparison as the text of one HTML file.

    Args:
        content: what `molvae.stages.compare.compare` returns.
    """
    template = load_template("comparison.html.j2", draw_interval=draw_interval, count_verdicts=count_verdicts)
    page = template.render(
        content=content,
        style=Markup((FOLDER / "report.css").read_text("utf-8")),
        better=BETTER,
        tones=TONES,
        latent_rows=build_latent_rows(content.get("diagnostics") or {}),
        latent_baselines=LATENT_BASELINES,
    )
    return page.lstrip()


def count_verdicts(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Count the metrics with each verdict, the most frequent first."""
    return Counter(row["verdict"] for row in rows).most_common()


def draw_interval(row: Mapping[str, Any]) -> Markup:
    """Draw an interval as a line and its difference as a dot, beside the line of no difference."""
    low, high = row["interval"]
    scale = (WIDTH / 2 - 4) / (max(abs(low), abs(high)) or 1)
    left, right, dot = (WIDTH / 2 + scale * value for value in (low, high, row["difference"]))
    middle = HEIGHT / 2
    zero = f'<path d="M{WIDTH / 2:.0f} 0V{HEIGHT}" stroke="currentColor" stroke-opacity=".35" stroke-dasharray="2 2"/>'
    line = f'<path d="M{left:.1f} {middle}H{right:.1f}" stroke="currentColor" stroke-width="2"/>'
    circle = f'<circle cx="{dot:.1f}" cy="{middle}" r="3.5" fill="currentColor"/>'
    return Markup(f'<svg width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">{zero}{line}{circle}</svg>')
