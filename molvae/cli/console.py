"""Tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from molvae.runtime.plain_text import format_message, show_invisible

if TYPE_CHECKING:
    import pandas as pd


def print_metrics(content: dict[str, Any]) -> None:
    """Print the metrics of a metrics.json: value, interval, n, baselines; then those not computed, and why."""
    metrics = content["metrics"]
    baselines = list(dict.fromkeys(name for metric in metrics for name in metric["baselines"]))
    headings = ["metric", "better", "value", "95 % interval", *(name.replace("_", " ") for name in baselines), "n"]
    table = Table(box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < 2 else "right", no_wrap=place in (0, 3))
    for metric in metrics:
        interval = " to ".join(map(format_number, metric["interval"])) if metric["interval"] else ""
        baseline_values = [format_number(metric["baselines"].get(name)) for name in baselines]
        better = metric["better"] if metric["better"] != "none" else ""
        _add_row(
            table, metric["name"], better, format_number(metric["value"]), interval, *baseline_values, str(metric["n"])
        )
    print_table(table)
    for name, reason in content["not_computed"].items():
        print(format_message(f"{name}: not computed, {reason}"))


def print_comparison(content: dict[str, Any]) -> None:
    """Print for each generator but the first every metric of both, the difference, its interval, and what it means."""
    first = content["first"]
    for name, rows in content["comparisons"].items():
        table = Table(box=None, pad_edge=False, title=show_invisible(f"{name} minus {first}"), title_justify="left")
        for heading in ("metric", "better", first, name, "difference", "95 % interval", name):
            table.add_column(
                show_invisible(heading), no_wrap=True, justify="left" if heading in ("metric", "better") else "right"
            )
        for row in rows:
            interval = " to ".join(map(format_number, row["interval"])) if row["interval"] else ""
            values = [format_number(side["value"]) for side in row["sides"]]
            better = row["better"] if row["better"] != "none" else ""
            note = row["note"] or row["verdict"]
            _add_row(table, row["name"], better, *values, format_number(row["difference"]), interval, note)
        print_table(table)


def print_frame(frame: pd.DataFrame) -> None:
    """Print a data frame as a table, its columns as they are named."""
    table = Table(box=None, pad_edge=False)
    for name in frame:
        table.add_column(show_invisible(str(name)), justify="right" if frame[name].dtype.kind in "if" else "left")
    for row in frame.itertuples(index=False):
        _add_row(table, *(format_number(value) if isinstance(value, float) else str(value) for value in row))
    print_table(table)


def print_search(history: pd.DataFrame) -> None:
    """Print how many molecules a search scored, and the best of them."""
    n_failed = int(history["score"].isna().sum())
    print(f"optimize: {len(history)} molecules scored, {n_failed} failed; the best:")
    print_frame(history.nlargest(5, "score")[["call", "score", "smiles"]])


def _add_row(table: Table, *texts: str) -> None:
    table.add_row(*map(show_invisible, texts))


def print_table(table: Table) -> None:
    """Print a table as wide as it is: neither a pipe nor a narrow window cuts a number off.

    Its texts are no markup, in which the [nH] of a SMILES would be a style.
    """
    console = Console(markup=False, highlight=False)
    wide = Console(width=1000, markup=False)
    console.width = max(console.width, wide.measure(table).maximum)
    console.print(table)


def format_number(value: float | None) -> str:
    """Format a number with four significant digits."""
    return "" if value is None else f"{value:.4g}"
