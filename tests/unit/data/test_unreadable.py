"""Files of which nothing is a molecule: the message has the first row and the likely cause."""

from __future__ import annotations

import pytest

from molvae.data import unreadable
from molvae.data.readers import Row
from molvae.data.unreadable import explain_unreadable, require_a_molecule
from molvae.errors import DataError


def test_a_file_with_one_molecule_among_its_rows_is_accepted(tmp_path):
    require_a_molecule(tmp_path / "a.smi", [Row("x1"), Row("CCO", None, "not_utf8"), Row(""), Row("CCO")])
    with pytest.raises(DataError, match=r"none of 2 rows .*\(too_many_columns\). The rows have more fields"):
        require_a_molecule(tmp_path / "a.csv", [Row(""), Row("1,CCO,2", None, "too_many_columns")])


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
        ("a.txt", "\n  x\n\n  1  0  0 V2000\nM  END\n", "x", "That looks like an SDF file"),
        ("a.csv", "SMILES\nx\n", "LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "That is an InChIKey"),
        ("a.csv", "SMILES\nx\n", "'CCO'", "It stands in quotation marks"),
        ("a.csv", "SMILES\nx\n", '{"smiles": 1}', "That looks like JSON"),
        ("a.csv", "SMILES\nx\n", "CCO>>CC=O", "That is a reaction"),
        ("a.csv", "SMILES\nx\n", "<bos>CCO", "tokens of another program"),
        ("a.csv", "SMILES,SMILES\nx,y\n", "x", "Check which column"),  # the file itself is damaged
    ],
)
def test_the_likely_cause_is_found_in_the_text_or_in_the_file(tmp_path, name, content, text, cause):
    (tmp_path / name).write_text(content)
    explanation = explain_unreadable(tmp_path / name, text, "not_smiles")
    assert explanation.startswith(f"The first row was read as {text!r} (not_smiles).") and cause in explanation
    with pytest.raises(DataError, match="none of 2 rows is a molecule"):
        require_a_molecule(tmp_path / name, [Row("%%"), Row("x")])


def test_the_cause_is_guessed_without_the_file_too():
    assert "It holds ';'" in explain_unreadable(None, "CCO;7,2", "not_smiles")


@pytest.mark.parametrize("name", ["a.csv", "a.smi"])
def test_the_cause_is_looked_for_in_some_columns_of_many(tmp_path, name, monkeypatch):
    columns: list[str] = []
    monkeypatch.setattr(unreadable, "_are_molecules", lambda texts: bool(columns.append("")))
    (tmp_path / name).write_text(",".join(f"x{k}" for k in range(2000)) + "\n" + ",".join(["CC"] * 2000) + "\n")
    explain_unreadable(tmp_path / name, "CC", "not_smiles")
    assert len(columns) == 100
