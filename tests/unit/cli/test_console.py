"""Tables for a terminal: no number and no SMILES is cut off."""

from __future__ import annotations

import pandas as pd
import pytest

from molvae.cli.console import print_comparison, print_frame, print_metrics

BENZIMIDAZOLE = "Cc1nc2ccccc2[nH]1"


@pytest.fixture(params=["pipe", "narrow window"])
def window(request, monkeypatch):
    """A pipe, or a terminal of forty columns as rich sees it."""
    if request.param != "pipe":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "40")


def test_brackets_of_a_smiles_are_printed_and_not_read_as_markup(window, capsys):
    print_frame(pd.DataFrame({"smiles": [BENZIMIDAZOLE, "[O-][n+]1ccccc1"], "score": [0.25, 1.5]}))
    printed = capsys.readouterr().out
    assert BENZIMIDAZOLE in printed and "[O-][n+]1ccccc1" in printed


def test_no_number_of_a_metric_is_cut_off(window, capsys):
    names = ("random_baseline", "shuffled_baseline", "unfiltered_samples", "training_set_reference")
    metric = {
        "name": "GuacaMol/KL/NumAliphaticRings",
        "better": "lower",
        "value": 0.123456,
        "n": 10_000,
        "interval": [0.112345, 0.134567],
        "baselines": dict.fromkeys(names, 22.123456),
    }
    print_metrics({"metrics": [metric], "not_computed": {}})
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "NumAliphaticRings" in line]
    assert "0.1235" in line and "0.1123 to 0.1346" in line and line.count("22.12") == 4 and "10000" in line


def test_a_generator_of_a_comparison_may_have_any_name(window, capsys):
    row = {
        "name": "FCD/Test",
        "better": "lower",
        "sides": [{"value": 0.5}, {"value": 0.75}],
        "difference": 0.25,
        "interval": [0.2, 0.3],
        "note": "",
        "verdict": "worse",
    }
    print_comparison({"first": "[bold]", "comparisons": {"[/x]": [row]}})
    printed = capsys.readouterr().out
    assert "[/x] minus [bold]" in printed and "0.2 to 0.3" in printed


def test_control_and_direction_changing_characters_of_texts_are_shown(window, capsys):
    text = "C\u202eO\x1b]0;x\x07"
    print_frame(pd.DataFrame({text: [text], "score": [0.5]}))
    print_metrics({"metrics": [], "not_computed": {text: text}})
    row = {"name": text, "better": "none", "sides": [{"value": 0.5}] * 2, "difference": 0.25, "interval": None}
    print_comparison({"first": text, "comparisons": {text: [{**row, "note": text, "verdict": "worse"}]}})
    printed = capsys.readouterr().out
    assert "\u202e" not in printed and "\x1b]" not in printed and "\x07" not in printed
    assert printed.count("C\\u202eO\\u001b]0;x\\u0007") == 11
