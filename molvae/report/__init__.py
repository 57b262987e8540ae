"""The report of an experiment: one HTML page that opens anywhere, offline."""

from __future__ import annotations

from molvae.report.page import render_report

__all__ = ["render_report"]
