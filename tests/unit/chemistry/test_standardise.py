"""One canonical SMILES for each molecule, and a reason for each row that is none."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from molvae.chemistry.standardise import Rejected, parse, randomise, standardise

EXAMPLES = Path(__file__).parents[3] / "data" / "moses-small.csv.gz"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OCC", "CCO"),
        ("  OCC\t", "CCO"),
        ("C1=CC=CC=C1", "c1ccccc1"),
        ("C%12CC%12", "C1CC1"),
        ("[Na+].CC(=O)[O-]", "CC(=O)O"),
        ("CC(=O)[O-].[NH3+]CCCC", "CCCCN"),  # the fragment with most heavy atoms
        ("O.O.c1ccccc1", "c1ccccc1"),
        ("C[NH3+]", "CN"),
        ("[NH4+]", "N"),
        ("C[N+](=O)[O-]", "C[N+](=O)[O-]"),  # no H+ to move: nitro stays
        ("CN(=O)=O", "C[N+](=O)[O-]"),  # the old way to write it
        ("C[N+](C)(C)C.[Cl-]", "C[N+](C)(C)C"),  # a charge no H+ can remove
        ("C[N+](C)(C)CC(=O)[O-]", "C[N+](C)(C)CC(=O)[O-]"),  # a zwitterion that is neutral as it is
        ("[O-][n+]1ccccc1", "[O-][n+]1ccccc1"),
        ("F[C@](Cl)(Br)I", "F[C@](Cl)(Br)I"),
        ("F/C=C/F", "F/C=C/F"),
        ("[2H]C([2H])[2H]", "[2H]C([2H])[2H]"),  # isotopes are part of the molecule
        ("[13CH4]", "[13CH4]"),
        ("[CH3:1][OH:2]", "CO"),  # atom-map numbers are not
        ("[H][H]", "[H][H]"),
        ("[Fe+2]", "[Fe+2]"),
    ],
)
def test_a_molecule_has_this_canonical_form(text, expected):
    assert standardise(text) == expected


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("", "empty", ""),
        (" \t", "empty", ""),
        (".", "not_smiles", "cannot parse"),
        ("nonsense", "not_smiles", "cannot parse"),
        ("C(", "not_smiles", "cannot parse"),
        ("c1ccccc", "not_smiles", "cannot parse"),
        ("[Xx]", "not_smiles", "cannot parse"),
        ("NA", "not_smiles", "cannot parse"),
        ("C(C)(C)(C)(C)C", "unphysical", "valence for atom # 0 C, 5, is greater than permitted"),
        ("c1cccc1", "unphysical", "kekulize"),
        ("C*", "wildcard_atom", "no element"),
        ("[*]", "wildcard_atom", "no element"),
        ("C" * 10_000, "too_long", "10000 characters"),
    ],
)
def test_a_row_that_is_no_molecule_has_this_reason(text, reason, detail):
    with pytest.raises(Rejected) as caught:
        standardise(text)
    assert caught.value.reason == reason
    assert detail in caught.value.detail


def test_settings_leave_fragments_charges_and_stereo_marks_as_they_are_or_take_them_away():
    assert standardise("CC(=O)[O-].C[NH3+]", largest_fragment=False) == "CC(=O)O.CN"
    assert standardise("CC(=O)[O-].[Na+]", largest_fragment=False) == "CC(=O)[O-].[Na+]"  # no H+ makes it neutral
    assert standardise("CC(=O)[O-].[Na+]", neutralise=False) == "CC(=O)[O-]"
    assert standardise("CC(=O)[O-].[Na+]", largest_fragment=False, neutralise=False) == "CC(=O)[O-].[Na+]"
    assert standardise("N[C@@H](C)C(=O)O", stereo="strip") == "CC(N)C(=O)O"
    assert standardise("F/C=C\\F", stereo="strip") == "FC=CF"


def test_the_same_molecule_written_in_random_orders_has_one_form(smiles):
    for number, text in enumerate(smiles):
        mol = Chem.MolFromSmiles(text)
        written = {Chem.MolToSmiles(mol, doRandom=True, rootedAtAtom=k % mol.GetNumAtoms()) for k in range(5)}
        assert {standardise(one) for one in written} == {standardise(text)}, number


def test_standardising_twice_changes_nothing(smiles):
    with gzip.open(EXAMPLES, "rt") as file:
        texts = [row["SMILES"] for row, _ in zip(csv.DictReader(file), range(300), strict=False)]
    salts = [f"{one}.{other}" for one, other in zip(smiles, smiles[1:] + ("[Na+]",), strict=True)]
    for text in [*texts, *smiles, *salts, "O=Cl(=O)(=O)O", "CN=N#N", "OS(=O)(=O)[O-].[Na+]", "[Mg+2].[Cl-].[Cl-]"]:
        for stereo in ("keep", "strip"):
            once = standardise(text, stereo=stereo)
            assert standardise(once, stereo=stereo) == once, text


@given(st.text(st.sampled_from("CNOcno()[]=#123+-@H/\\.*$:%~>Fe ")) | st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_a_molecule_or_is_rejected_with_one_of_five_reasons(text):
    try:
        assert standardise(text)
    except Rejected as why:
        assert why.reason in {"empty", "too_long", "not_smiles", "unphysical", "wildcard_atom"}  # noqa: PT017


def test_what_rdkit_says_of_a_bad_string_is_not_printed_but_kept(capfd):
    with pytest.raises(Rejected, match="valence"):
        parse("C(C)(C)(C)(C)C")
    assert capfd.readouterr() == ("", "")


def test_randomised_spellings_are_of_the_same_molecule_and_a_function_of_it(smiles):
    for one in map(standardise, smiles):
        spellings = randomise(one, 8)
        assert len(spellings) == 8
        assert {standardise(spelling, neutralise=False) for spelling in spellings} == {one}
        assert randomise(one, 3) == spellings[:3]
    assert len({*randomise("CC(=O)Oc1ccccc1C(=O)O", 8)}) > 4
    assert randomise("C", 2) == ["C", "C"]
