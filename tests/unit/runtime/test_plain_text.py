"""Text that stays text: for a terminal, for a page, for a spreadsheet."""

from __future__ import annotations

import pandas as pd
import pytest

from molvae.runtime.plain_text import (
    format_message,
    protect_cell,
    protect_table,
    restore_cell,
    restore_table,
    show_invisible,
)


@pytest.mark.parametrize("code", [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x1B, 0x0D, 0x9B])
def test_characters_that_change_direction_or_control_a_terminal_are_shown_by_number(code):
    assert show_invisible(f"C{chr(code)}O") == f"C\\u{code:04x}O"


def test_other_characters_of_any_script_stay():
    text = "CCO é 分子 \u00a0 😀 μ"
    assert show_invisible(text) == text
    assert show_invisible("a\nb", keep="\n") == "a\nb"


def test_a_message_keeps_its_lines_and_loses_secrets():
    message = format_message("molvae: \x1b[2Jx.csv\nhttps://me:secret@example.org/a.csv?secret")
    assert message == "molvae: \\u001b[2Jx.csv\nhttps://example.org/a.csv?***"


@pytest.mark.parametrize(
    "text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "=CMD|' /C calc'!A0", "-2+3", "'=1", "''@"]
)
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe_that_comes_off_again(text):
    assert protect_cell(text) == f"'{text}"
    assert restore_cell(protect_cell(text)) == text


@pytest.mark.parametrize("text", ["CCO", "-1", "+1.5e-3", "-.5", "[O-]", "", "'", "it's", "'C'", "N=C"])
def test_other_texts_and_numbers_stay_as_they_are(text):
    assert protect_cell(text) == restore_cell(text) == text


def test_numbers_of_a_table_stay_numbers():
    table = pd.DataFrame({"smiles": ["=C", "CCO"], "score": [-1.5, 2.0], "flag": [True, None], "note": ["-", None]})
    protected = protect_table(table)
    assert protected["smiles"].tolist() == ["'=C", "CCO"] and protected["note"].tolist()[0] == "'-"
    assert protected["score"].tolist() == [-1.5, 2.0] and protected["flag"].tolist() == [True, None]
    pd.testing.assert_frame_equal(restore_table(protected), table)
