"""Descriptors and the rows that `validate` writes."""

from __future__ import annotations

import pytest
from rdkit import Chem

from molvae.chemistry.describe import DESCRIPTORS, describe, kept_token_fraction
from molvae.chemistry.stable import encoded_again
from molvae.metrics.rows import describe_rows


def test_aspirin_has_the_descriptors_of_the_literature():
    found = describe(Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O"))
    assert list(found) == list(DESCRIPTORS)
    assert found["mw"] == pytest.approx(180.159, abs=1e-3)
    assert found["tpsa"] == pytest.approx(63.6, abs=0.05)
    assert found["logp"] == pytest.approx(1.31, abs=0.01)
    assert found["qed"] == pytest.approx(0.550, abs=1e-3)
    assert found["sa"] == pytest.approx(1.58, abs=0.01)
    assert (found["rings"], found["largest_ring"], found["heavy_atoms"], found["charge"]) == (1, 6, 13, 0)


def test_rings_radicals_and_charges_are_counted():
    found = describe(Chem.MolFromSmiles("[CH2]CC[N+](C)(C)C"))
    assert (found["rings"], found["largest_ring"]) == (0, 0)
    assert (found["radical_electrons"], found["charge"]) == (1, 1)
    assert describe(Chem.MolFromSmiles("C1CC2CCC1CC2"))["largest_ring"] == 6


def test_filters_let_a_drug_pass_and_stop_what_they_name():
    good = describe(Chem.MolFromSmiles("Cn1cnc2c1c(=O)n(C)c(=O)n2C"))
    assert good["passes_mcf"] and good["passes_pains"]
    assert not describe(Chem.MolFromSmiles("CCBr"))["passes_mcf"]  # MCF4, which names hydrogens: [H]C([H])([#6])Br
    assert not describe(Chem.MolFromSmiles("O=C1NC(=S)SC1=Cc1ccccc1"))["passes_pains"]  # rhodanine


def test_kept_tokens_are_counted_on_lengths_and_never_above_one():
    assert kept_token_fraction(["[C]", "[C]", "[O]", "[F]"], encoded_again("CO")) == 0.5
    assert kept_token_fraction(["[C]"], encoded_again("CCO")) == 1
    assert kept_token_fraction([], encoded_again("C")) == kept_token_fraction(["[C]"], encoded_again("")) == 0
    assert kept_token_fraction(["[C]"], encoded_again("C$C")) == 0  # a molecule SELFIES cannot write


def test_each_row_is_described_or_has_its_reason():
    rows = describe_rows([("OCC", "[O][C][C]"), ("C", None), ("", "[nop]"), ("C(C)(C)(C)(C)C", None), ("xx", None)])
    assert [row["reason"] for row in rows] == ["", "", "empty", "unphysical", "not_smiles"]
    assert [row["canonical"] for row in rows] == ["CCO", "C", "", "", ""]
    assert [row["kept_token_fraction"] for row in rows] == [1, 1, 0, 0, 0]
    assert [row["is_stable"] for row in rows] == [False, True, False, False, False]  # [C][C][O] would be stable
    assert all(set(row) == set(rows[0]) for row in rows)
    assert rows[2]["mw"] is None and not rows[2]["is_valid"]
