"""One canonical SMILES for each molecule, and a reason for each row that is none."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from molvae.chemistry.standardise import parse_smiles, randomise_smiles, silence_rdkit, standardise
from molvae.errors import Rejected

TAFAMIDIS = "O=C(O)c1ccc2oc(-c3cc(Cl)cc(Cl)c3)nc2c1"
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
def test_standardised_molecule_has_the_expected_canonical_smiles(text, expected):
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
        ("[#0]C", "wildcard_atom", "no element"),
        ("C" * 10_000, "too_long", "10000 characters"),
    ],
)
def test_text_that_is_no_molecule_is_rejected_with_the_expected_reason(text, reason, detail):
    with pytest.raises(Rejected) as caught:
        standardise(text)
    assert caught.value.reason == reason
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("salt", "expected"),
    [
        ("O=C([O-])c1ccc2oc(-c3cc(Cl)cc(Cl)c3)nc2c1.CCCC[N+](CCCC)(CCCC)CCCC", TAFAMIDIS),
        ("O=C(O)c1ccc2oc(-c3cc(Cl)cc(Cl)c3)nc2c1.CNC[C@H](O)[C@@H](O)[C@H](O)[C@H](O)CO", TAFAMIDIS),
        ("C[N+](C)(C)C.F[P-](F)(F)(F)(F)F", "C[N+](C)(C)C"),  # more heavy atoms, but no carbon
        ("CCN.CCO", "CCO"),  # of as many heavy atoms the heavier
        ("C/C=C/C.C=CCC", "C/C=C/C"),
        ("O.O.O.O.O.O.CCO", "CCO"),
        ("O=S(=O)(O)O.CCN", "CCN"),
    ],
)
def test_largest_fragment_is_the_organic_one_of_most_heavy_atoms_in_any_order(salt, expected):
    assert standardise(salt) == standardise(".".join(reversed(salt.split(".")))) == expected


def test_standardise_settings_keep_or_remove_fragments_charges_and_stereo_marks():
    assert standardise("CC(=O)[O-].C[NH3+]", largest_fragment=False) == "CC(=O)O.CN"
    assert standardise("CC(=O)[O-].[Na+]", largest_fragment=False) == "CC(=O)[O-].[Na+]"  # no H+ makes it neutral
    assert standardise("CC(=O)[O-].[Na+]", neutralise=False) == "CC(=O)[O-]"
    assert standardise("CC(=O)[O-].[Na+]", largest_fragment=False, neutralise=False) == "CC(=O)[O-].[Na+]"
    assert standardise("N[C@@H](C)C(=O)O", stereo="strip") == "CC(N)C(=O)O"
    assert standardise("F/C=C\\F", stereo="strip") == "FC=CF"


def test_randomly_ordered_smiles_of_a_molecule_have_one_standard_form(smiles):
    for number, text in enumerate(smiles):
        mol = Chem.MolFromSmiles(text)
        randomised = {Chem.MolToSmiles(mol, doRandom=True, rootedAtAtom=k % mol.GetNumAtoms()) for k in range(5)}
        assert {standardise(randomised_text) for randomised_text in randomised} == {standardise(text)}, number


def test_standardising_a_standard_smiles_changes_nothing(smiles):
    with gzip.open(EXAMPLES, "rt") as file:
        texts = [row["SMILES"] for row, _ in zip(csv.DictReader(file), range(300), strict=False)]
    salts = [f"{first}.{second}" for first, second in zip(smiles, (*smiles[1:], "[Na+]"), strict=True)]
    for text in [*texts, *smiles, *salts, "O=Cl(=O)(=O)O", "CN=N#N", "OS(=O)(=O)[O-].[Na+]", "[Mg+2].[Cl-].[Cl-]"]:
        for stereo in ("keep", "strip"):
            standard = standardise(text, stereo=stereo)
            assert standardise(standard, stereo=stereo) == standard, text


REASONS = {
    *("empty", "too_long", "not_smiles", "unphysical", "wildcard_atom"),
    *("not_cxsmiles", "not_one_structure"),
}


@given(
    st.text(st.sampled_from("CNOcno()[]=#123+-@H/\\.*$:%~>Fe "))
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.builds("C[C@H](F)/C=C/Cl |{}|".format, st.text(st.sampled_from("ao&rctuwUDmLN^SgD$;:,.()0123456789 |")))
)
def test_any_text_is_a_molecule_or_is_rejected_for_one_of_seven_reasons(text):
    try:
        assert standardise(text)
    except Rejected as rejection:
        assert rejection.reason in REASONS  # noqa: PT017


def test_rdkit_messages_about_a_bad_smiles_are_kept_and_not_printed(capfd):
    with pytest.raises(Rejected, match="valence"):
        parse_smiles("C(C)(C)(C)(C)C")
    with silence_rdkit(), pytest.raises(Rejected, match="valence"):
        parse_smiles("C(C)(C)(C)(C)C", silence=False)
    assert capfd.readouterr() == ("", "")


def test_randomised_smiles_are_of_the_same_molecule_and_a_function_of_it_and_the_seed(smiles):
    for canonical in map(standardise, smiles):
        randomised = randomise_smiles(canonical, 8, seed=0)
        assert len(randomised) == 8
        assert {standardise(text, neutralise=False) for text in randomised} == {canonical}
        assert randomise_smiles(canonical, 3, seed=0) == randomised[:3]
    aspirin = "CC(=O)Oc1ccccc1C(=O)O"
    assert len({*randomise_smiles(aspirin, 8, seed=0)}) > 4
    assert randomise_smiles(aspirin, 8, seed=0) != randomise_smiles(aspirin, 8, seed=1)
    assert randomise_smiles("C", 2, seed=0) == ["C", "C"]


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("\u0421CO", r"it holds 'С' \(U\+0421\)"),  # Cyrillic
        ("CC\u041e", r"U\+041E"),
        ("CC\u00d6", "U\\+00D6"),
        ("“CCO”", r"U\+201C"),
        ("CCN\0", r"U\+0000"),
        ("C\0C", r"U\+0000"),
        ("C C O", "text behind the SMILES: 'C O'"),
        ("CCO ethanol", "text behind the SMILES: 'ethanol'"),
        ("C\nC", "text behind the SMILES"),
    ],
)
def test_a_text_of_which_rdkit_would_read_a_part_is_no_smiles(text, detail):
    with pytest.raises(Rejected, match=f"not_smiles: .*{detail}"):
        standardise(text)


@pytest.mark.parametrize("text", ["\ufeffCCO", "CCO\u00a0", " CCO\t", "CCO\u200b", "CCO |r| Äthanol"])
def test_invisible_characters_at_the_ends_are_passed_over(text):
    assert standardise(text) == "CCO"
