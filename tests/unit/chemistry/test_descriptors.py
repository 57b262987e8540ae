"""Descriptors, the parts that metrics compare, and the rows that `validate` writes."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import QED, AllChem, Descriptors
from rdkit.Chem.Scaffolds import MurckoScaffold

from molvae.chemistry.descriptors import (
    DESCRIPTORS,
    PARTS,
    bits_of,
    canonical,
    describe,
    fingerprint,
    glance,
    guacamol_values,
    kept_token_fraction,
    parts_of,
    skeleton,
    without_stereo,
)
from molvae.chemistry.round_trip import encoded_again
from molvae.metrics.molecule_table import describe_all, describe_rows, describe_strings


def read(smiles: str) -> Chem.Mol:
    return Chem.MolFromSmiles(smiles)


def skeleton_of(smiles: str) -> str:
    return skeleton(read(smiles), canonical(read(smiles)))


def test_aspirin_has_the_descriptors_of_the_literature():
    found = describe(read("CC(=O)Oc1ccccc1C(=O)O"))
    assert list(found) == list(DESCRIPTORS)
    assert found["mw"] == pytest.approx(180.159, abs=1e-3)
    assert found["tpsa"] == pytest.approx(63.6, abs=0.05)
    assert found["logp"] == pytest.approx(1.31, abs=0.01)
    assert found["qed"] == pytest.approx(0.550, abs=1e-3)
    assert found["sa"] == pytest.approx(1.58, abs=0.01)
    assert (found["rings"], found["largest_ring"], found["heavy_atoms"], found["charge"]) == (1, 6, 13, 0)


def test_rings_radicals_and_charges_are_counted():
    found = describe(read("[CH2]CC[N+](C)(C)C"))
    assert (found["rings"], found["largest_ring"]) == (0, 0)
    assert (found["radical_electrons"], found["charge"]) == (1, 1)
    assert describe(read("C1CC2CCC1CC2"))["largest_ring"] == 6


def test_filters_let_a_drug_pass_and_stop_what_they_name():
    good = describe(read("Cn1cnc2c1c(=O)n(C)c(=O)n2C"))
    assert good["alerts"] == "" and good["passes_filters"] is True
    bromide = describe(read("CCBr"))  # MCF4, which names hydrogens: [H]C([H])([#6])Br
    assert bromide["alerts"] == "MCF4" and bromide["passes_filters"] is False
    rhodanine = describe(read("O=C1NC(=S)SC1=Cc1ccccc1"))
    assert "PAINS" in rhodanine["alerts"] and rhodanine["passes_filters"] is False
    both = describe(read("O=C1NC(=S)SC1=Cc1ccc(CBr)cc1"))["alerts"].split("; ")
    assert {name.split()[0].rstrip("0123456789") for name in both} == {"MCF", "PAINS"}
    assert both == sorted(both, key=lambda name: name.startswith("PAINS"))  # MCF first


@pytest.mark.parametrize("smiles", ["C1CCCCCCC1", "C[N+](C)(C)C", "Cc1cc[se]c1"])
def test_a_molecule_without_an_alert_may_fail_the_filters_for_its_ring_charge_or_elements(smiles):
    found = describe(read(smiles))
    assert found["alerts"] == "" and found["passes_filters"] is False


def test_qed_is_that_of_rdkit_with_hydrogens_written_or_not(smiles):
    further = ["C", "[H][H]", "[2H]C([2H])O", "[CH2]C", "C[NH3+]", "C[S-]", "N#N", "CCCCCCCCCCCC", "O=C1C=CC(=O)C=C1",
               "CCN(CC)CCNC(=O)c1ccc(N)cc1.Cl", "O=[N+]([O-])c1ccc(Cl)cc1", "C1CC2CC1C=C2", "[Na+].[Cl-]"]  # fmt: skip
    for one in (*smiles, *further):
        for mol in (read(one), Chem.AddHs(read(one)), read(Chem.MolToSmiles(Chem.AddHs(read(one))))):
            assert describe(mol)["qed"] == pytest.approx(QED.qed(mol), rel=1e-12)
        assert describe(Chem.AddHs(read(one)))["qed"] == pytest.approx(describe(read(one))["qed"], rel=1e-12)


def test_the_others_are_those_of_rdkit(smiles):
    published = {
        "mw": Descriptors.MolWt, "logp": Descriptors.MolLogP, "tpsa": Descriptors.TPSA, "rings": Descriptors.RingCount,
        "heavy_atoms": Descriptors.HeavyAtomCount, "radical_electrons": Descriptors.NumRadicalElectrons,
        "charge": Chem.GetFormalCharge,
    }  # fmt: skip
    for mol in map(read, smiles):
        found = describe(mol)
        assert {name: found[name] for name in published} == {name: of(mol) for name, of in published.items()}


def test_molecules_are_described_in_all_that_is_promised(smiles):
    for mol in map(read, smiles):
        assert list(describe(mol)) == list(DESCRIPTORS)
        assert list(parts_of(mol)) == list(PARTS)


def test_fragments_are_those_of_brics(smiles):
    for mol in map(read, smiles):
        cut = Chem.GetMolFrags(Chem.FragmentOnBRICSBonds(mol), asMols=True)
        assert sorted(parts_of(mol)["fragments"].split(".")) == sorted(map(Chem.MolToSmiles, cut))
    assert parts_of(read("CC(=O)Nc1ccc(O)cc1"))["fragments"].count(".") == 2
    assert parts_of(read("c1ccccc1"))["fragments"] == "c1ccccc1"  # nothing to cut


def test_scaffolds_are_those_of_murcko_with_two_rings_or_more(smiles):
    assert parts_of(read("CCC(c1ccccc1)N1CCOC1=O"))["scaffold"] == "O=C1OCCN1Cc1ccccc1"
    for one in ("CCO", "Cc1ccccc1", "[Na+].[Cl-]"):
        assert parts_of(read(one))["scaffold"] == ""
    for mol in map(read, smiles):
        several = mol.GetRingInfo().NumRings() >= 2
        assert parts_of(mol)["scaffold"] == (MurckoScaffold.MurckoScaffoldSmiles(mol=mol) if several else "")


def test_a_molecule_of_over_a_thousand_atoms_has_no_scaffold():
    for carbons, scaffold in ((990, "c1ccc2ccccc2c1"), (991, "")):
        assert parts_of(read("C" * carbons + "c1ccc2ccccc2c1"))["scaffold"] == scaffold


def test_fingerprints_are_morgan_bits_of_radius_two(smiles):
    for mol in map(read, smiles):
        expected = np.array(AllChem.GetMorganFingerprintAsBitVect(mol, 2, 1024))
        np.testing.assert_array_equal(np.unpackbits(np.frombuffer(fingerprint(mol), dtype=np.uint8)), expected)
        assert parts_of(mol)["fingerprint"] == fingerprint(mol)


def test_stereo_marks_go_and_nothing_else_does(smiles):
    assert without_stereo("C[C@H](N)C(=O)O") == without_stereo("C[C@@H](N)C(=O)O") == canonical(read("CC(N)C(=O)O"))
    assert without_stereo("F/C=C/F") == without_stereo("F/C=C\\F") == "FC=CF"
    for form in (canonical(read(one)) for one in smiles):
        flat = without_stereo(form)
        assert not set(flat) & set("@/\\") and flat == canonical(read(flat))
        assert flat == form or set(form) & set("@/\\")


def test_a_skeleton_is_shared_by_tautomers_and_stereoisomers_and_by_nothing_else(smiles):
    assert skeleton_of("Oc1ccccn1") == skeleton_of("O=c1cccc[nH]1")
    assert skeleton_of("C[C@H](N)C(=O)O") == skeleton_of("C[C@@H](N)C(=O)O") == skeleton_of("CC(N)C(=O)O")
    assert skeleton_of("CC(=O)Oc1ccccc1C(=O)O") == "BSYNRYMUTXBXSQ"
    assert len({skeleton_of(one) for one in smiles}) == len(smiles)
    assert skeleton_of("Oc1ccccn1") != skeleton_of("Oc1cccnc1")


def test_a_molecule_without_an_inchi_has_its_smiles_for_a_skeleton():
    dummy = read("*CC")
    assert skeleton(dummy, canonical(dummy)) == "*CC"


def test_guacamol_values_are_a_number_a_molecule_for_nine_descriptors_and_a_fingerprint(smiles):
    values, bits = guacamol_values([canonical(read(one)) for one in smiles])
    assert len(values) == 9 and all(one.shape == (len(smiles),) and one.dtype == float for one in values.values())
    assert bits.shape == (len(smiles), 512) and bits.dtype == np.uint8
    for number, mol in enumerate(map(read, smiles)):
        assert values["MolWt"][number] == Descriptors.MolWt(mol)
        assert values["NumHDonors"][number] == Descriptors.NumHDonors(mol)
        assert values["NumAromaticRings"][number] == Descriptors.NumAromaticRings(mol)
        assert values["NumRotatableBonds"][number] == Descriptors.NumRotatableBonds(mol)
        expected = np.array(AllChem.GetMorganFingerprintAsBitVect(mol, 2, 4096))
        np.testing.assert_array_equal(np.unpackbits(bits[number]), expected)
    none, no_bits = guacamol_values([])
    assert all(one.shape == (0,) for one in none.values()) and no_bits.shape == (0, 512)


def test_kept_tokens_are_counted_on_lengths_and_never_above_one():
    assert kept_token_fraction(["[C]", "[C]", "[O]", "[F]"], encoded_again("CO")) == 0.5
    assert kept_token_fraction(["[C]"], encoded_again("CCO")) == 1
    assert kept_token_fraction([], encoded_again("C")) == kept_token_fraction(["[C]"], encoded_again("")) == 0
    assert kept_token_fraction(["[C]"], encoded_again("C$C")) == 0  # a molecule SELFIES cannot write


def test_each_row_is_described_or_has_its_reason():
    rows = describe_rows([("OCC", "[O][C][C]"), ("C", None), ("", "[nop]"), ("C(C)(C)(C)(C)C", None), ("xx", None)])
    assert [row["reason"] for row in rows] == ["", "", "empty", "unphysical", "not_smiles"]
    assert [row["canonical"] for row in rows] == ["CCO", "C", "", "", ""]
    assert [row["kept_token_fraction"] for row in rows] == [1, None, 0, None, None]  # nothing is said without a string
    assert [row["is_stable"] for row in rows] == [False, None, False, None, None]  # [C][C][O] would be stable
    assert describe_rows([("CCO", "[C][C][O]")])[0]["is_stable"] is True
    assert all(set(row) == set(rows[0]) == {*rows[0], *DESCRIPTORS, *PARTS} for row in rows)
    assert rows[2]["mw"] is None and rows[2]["fingerprint"] is None and not rows[2]["is_valid"]


def test_a_glance_says_of_filters_and_fingerprint_what_a_long_look_does(strings, vocabulary):
    odd = [["[C]", "[C]", "[Cl]"], ["[C-1]"], [], strings[0]]  # stopped by a filter and by its charge, none, a repeat
    short, long = (describe_strings([*strings, *odd], vocabulary.caps, **of) for of in ({"of": glance}, {}))
    seen = ["canonical", "is_valid", "is_stable", "passes_filters", "fingerprint"]
    assert short[seen].equals(long[seen]) and set(short["passes_filters"]) == {True, False, None}
    assert short.drop(columns=[*seen, "reason", "kept_token_fraction"]).isna().all(axis=None)


def test_fingerprints_are_unpacked_in_their_order():
    prints = [fingerprint(read(one)) for one in ("CCO", "c1ccccc1O")]
    bits = bits_of(prints)
    assert bits.shape == (2, 1024) and [np.packbits(row.astype(bool)).tobytes() for row in bits] == prints
    assert bits_of([]).shape == (0, 1024)


def test_rows_stand_in_the_order_of_the_samples_and_a_text_that_comes_again_has_its_row_again():
    table = describe_all(["OCC", "x", "OCC", "CCO"], ["[O][C][C]", "[C]", "[C][C][O]", "[C][C][O]"])
    assert table["canonical"].tolist() == ["CCO", "", "CCO", "CCO"]
    assert table["is_stable"].tolist() == [False, False, True, True]  # the same SMILES from another string
    again = describe_all(["C", "CC", "C", "C"])
    assert again["mw"].tolist() == [again["mw"][0], again["mw"][1], again["mw"][0], again["mw"][0]]
    assert again.index.tolist() == [0, 1, 2, 3] and again["kept_token_fraction"].isna().all()
    assert len(describe_all([])) == 0 and list(describe_all([])) == list(again)
