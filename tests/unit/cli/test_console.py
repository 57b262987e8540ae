"""Tables for a terminal: nothing of a figure or a SMILES is lost."""

from __future__ import annotations

import pandas as pd
import pytest

from molvae.cli.console import print_comparison, print_frame, print_metrics

BENZIMIDAZOLE = "Cc1nc2ccccc2[nH]1"


@pytest.fixture(params=["pipe", "narrow window"])
def window(request, monkeypatch):
    """A pipe, or what rich takes for a terminal of forty columns."""
    if request.param != "pipe":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "40")


def test_a_smiles_is_no_markup(window, capsys):
    print_frame(pd.DataFrame({"smiles": [BENZIMIDAZOLE, "[O-][n+]1ccccc1"], "score": [0.25, 1.5]}))
    shown = capsys.readouterr().out
    assert BENZIMIDAZOLE in shown and "[O-][n+]1ccccc1" in shown


def test_no_figure_is_cut_off(window, capsys):
    beside = dict.fromkeys(("random_tokens", "shuffled_latents", "first_strings", "training_molecules"), 22.123456)
    metric = {"name": "GuacaMol/KL/NumAliphaticRings", "better": "lower", "value": 0.123456, "n": 10_000,
              "interval": [0.112345, 0.134567], "baselines": beside}  # fmt: skip
    print_metrics({"metrics": [metric], "not_computed": {}})
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "NumAliphaticRings" in line]
    assert "0.1235" in line and "0.1123 to 0.1346" in line and line.count("22.12") == 4 and "10000" in line


def test_a_generator_may_have_any_name(window, capsys):
    row = {"name": "FCD/Test", "better": "lower", "sides": [{"value": 0.5}, {"value": 0.75}], "difference": 0.25,
           "interval": [0.2, 0.3], "note": "", "verdict": "worse"}  # fmt: skip
    print_comparison({"first": "[bold]", "comparisons": {"[/x]": [row]}})
    shown = capsys.readouterr().out
    assert "[/x] less [bold]" in shown and "0.2 to 0.3" in shown
