"""Files of which nothing is a molecule: the message has the first row and the likely cause."""

from __future__ import annotations

import pytest

from molvae.data.unreadable import explain_unreadable, require_a_molecule
from molvae.errors import DataError


def test_a_file_with_one_molecule_among_its_rows_is_accepted(tmp_path):
    require_a_molecule(tmp_path / "a.smi", ["x1", None, "", "CCO"])
    require_a_molecule(tmp_path / "a.smi", [None, ""])  # nothing was read, so nothing was read wrongly


@pytest.mark.parametrize(
    ("name", "content", "text", "cause"),
    [
        ("a.smi", "mol1 CCO\nmol2 CCN\n", "mol1", "Field 2 of the lines holds molecules ('CCO')"),
        ("a.smi", "CCO,ethanol\nCCN,amine\n", "CCO,ethanol", "Field 1 of the lines holds molecules"),
        ("a.txt", "1;CCO;x\n2;CCN;y\n", "1;CCO;x", "Field 2 of the lines holds molecules"),
        ("a.csv", "smiles,structure\nmol1,CCO\nmol2,CCN\n", "mol1", "Column 'structure' holds molecules: name it"),
        ("a.csv", "SMILES\nmol1\n", "mol1", "Check which column holds the SMILES"),
        ("a.csv", "SMILES\nxx\n", "InChI=1S/CH4/h1H4", "That is an InChI"),
        ("a.csv", "SMILES\nx\n", "[C][Branch1][C][O]", "That looks like SELFIES"),
        ("a.csv", "SMILES,SMILES\nx,y\n", "x", "Check which column"),  # the file itself is damaged
    ],
)
def test_the_likely_cause_is_found_in_the_text_or_in_the_file(tmp_path, name, content, text, cause):
    (tmp_path / name).write_text(content)
    explanation = explain_unreadable(tmp_path / name, text, "not_smiles")
    assert explanation.startswith(f"The first row was read as {text!r} (not_smiles).") and cause in explanation
    with pytest.raises(DataError, match="none of 2 rows is a molecule"):
        require_a_molecule(tmp_path / name, ["%%", "x"])


def test_the_cause_is_guessed_without_the_file_too():
    assert "It holds ';'" in explain_unreadable(None, "CCO;7,2", "not_smiles")
