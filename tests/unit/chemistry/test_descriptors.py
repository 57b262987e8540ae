"""Descriptors of molecules, the parts that metrics compare, and the rows that `validate` writes."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import QED, AllChem, Descriptors
from rdkit.Chem.Scaffolds import MurckoScaffold

from molvae.chemistry.descriptor_table import CHARTED_DESCRIPTORS, DESCRIPTORS, NUMERIC_DESCRIPTORS
from molvae.chemistry.descriptors import (
    PARTS,
    compute_descriptors,
    compute_filters_and_fingerprint,
    compute_guacamol_descriptors,
    compute_parts,
    compute_skeleton,
    compute_skeletons,
    compute_token_survival,
    remove_stereo,
    to_canonical_smiles,
)
from molvae.chemistry.fingerprints import compute_fingerprint, unpack_fingerprints
from molvae.chemistry.round_trip import reencode
from molvae.metrics.molecule_table import describe_rows, describe_selfies, describe_smiles


def parse(smiles: str) -> Chem.Mol:
    return Chem.MolFromSmiles(smiles)


def compute_skeleton_of(smiles: str) -> str:
    return compute_skeleton(parse(smiles), to_canonical_smiles(parse(smiles)))


def test_descriptors_of_aspirin_are_those_of_the_literature():
    aspirin = compute_descriptors(parse("CC(=O)Oc1ccccc1C(=O)O"))
    assert list(aspirin) == list(DESCRIPTORS)
    assert aspirin["mw"] == pytest.approx(180.159, abs=1e-3)
    assert aspirin["tpsa"] == pytest.approx(63.6, abs=0.05)
    assert aspirin["logp"] == pytest.approx(1.31, abs=0.01)
    assert aspirin["qed"] == pytest.approx(0.550, abs=1e-3)
    assert aspirin["sa"] == pytest.approx(1.58, abs=0.01)
    assert (aspirin["rings"], aspirin["largest_ring"], aspirin["heavy_atoms"], aspirin["charge"]) == (1, 6, 13, 0)


def test_descriptors_count_rings_radicals_and_charges():
    chain = compute_descriptors(parse("[CH2]CC[N+](C)(C)C"))
    assert (chain["rings"], chain["largest_ring"]) == (0, 0)
    assert (chain["radical_electrons"], chain["charge"]) == (1, 1)
    assert compute_descriptors(parse("C1CC2CCC1CC2"))["largest_ring"] == 6


def test_filters_pass_a_drug_and_stop_molecules_with_an_alert():
    caffeine = compute_descriptors(parse("Cn1cnc2c1c(=O)n(C)c(=O)n2C"))
    assert caffeine["alerts"] == "" and caffeine["passes_filters"] is True
    bromide = compute_descriptors(parse("CCBr"))  # MCF4, which names hydrogens: [H]C([H])([#6])Br
    assert bromide["alerts"] == "MCF4" and bromide["passes_filters"] is False
    rhodanine = compute_descriptors(parse("O=C1NC(=S)SC1=Cc1ccccc1"))
    assert "PAINS" in rhodanine["alerts"] and rhodanine["passes_filters"] is False
    names = compute_descriptors(parse("O=C1NC(=S)SC1=Cc1ccc(CBr)cc1"))["alerts"].split("; ")
    assert {name.split()[0].rstrip("0123456789") for name in names} == {"MCF", "PAINS"}
    assert names == sorted(names, key=lambda name: name.startswith("PAINS"))  # MCF first


@pytest.mark.parametrize("smiles", ["C1CCCCCCC1", "C[N+](C)(C)C", "Cc1cc[se]c1"])
def test_filters_stop_molecules_without_an_alert_for_their_rings_charges_or_elements(smiles):
    descriptors = compute_descriptors(parse(smiles))
    assert descriptors["alerts"] == "" and descriptors["passes_filters"] is False


def test_qed_equals_that_of_rdkit_with_explicit_and_implicit_hydrogens(smiles):
    further = [
        "C",
        "[H][H]",
        "[2H]C([2H])O",
        "[CH2]C",
        "C[NH3+]",
        "C[S-]",
        "N#N",
        "CCCCCCCCCCCC",
        "O=C1C=CC(=O)C=C1",
        "CCN(CC)CCNC(=O)c1ccc(N)cc1.Cl",
        "O=[N+]([O-])c1ccc(Cl)cc1",
        "C1CC2CC1C=C2",
        "[Na+].[Cl-]",
    ]
    for text in (*smiles, *further):
        implicit, explicit = parse(text), Chem.AddHs(parse(text))
        for mol in (implicit, explicit, parse(Chem.MolToSmiles(explicit))):
            assert compute_descriptors(mol)["qed"] == pytest.approx(QED.qed(mol), rel=1e-12)
        qed = compute_descriptors(implicit)["qed"]
        assert compute_descriptors(explicit)["qed"] == pytest.approx(qed, rel=1e-12)


def test_mass_logp_tpsa_and_counts_equal_those_of_rdkit(smiles):
    functions = {
        "mw": Descriptors.MolWt,
        "logp": Descriptors.MolLogP,
        "tpsa": Descriptors.TPSA,
        "rings": Descriptors.RingCount,
        "heavy_atoms": Descriptors.HeavyAtomCount,
        "radical_electrons": Descriptors.NumRadicalElectrons,
        "charge": Chem.GetFormalCharge,
    }
    for mol in map(parse, smiles):
        descriptors = compute_descriptors(mol)
        expected = {name: compute(mol) for name, compute in functions.items()}
        assert {name: descriptors[name] for name in functions} == expected


def test_descriptors_and_parts_have_the_names_of_their_tables(smiles):
    for mol in map(parse, smiles):
        assert list(compute_descriptors(mol)) == list(DESCRIPTORS)
        assert list(compute_parts(mol)) == list(PARTS)


def test_numeric_and_charted_descriptors_are_those_the_table_marks_so(smiles):
    descriptors = compute_descriptors(parse(smiles[0]))
    assert list(NUMERIC_DESCRIPTORS) == [name for name, value in descriptors.items() if type(value) in (int, float)]
    counts = [name for name, value in descriptors.items() if type(value) is int]
    assert counts == [name for name, descriptor in DESCRIPTORS.items() if descriptor.is_count]
    assert set(CHARTED_DESCRIPTORS) == {"mw", "logp", "qed", "sa", "tpsa", "rings", "heavy_atoms"}


def test_fragments_are_those_of_brics(smiles):
    for mol in map(parse, smiles):
        fragments = Chem.GetMolFrags(Chem.FragmentOnBRICSBonds(mol), asMols=True)
        assert sorted(compute_parts(mol)["fragments"].split(".")) == sorted(map(Chem.MolToSmiles, fragments))
    assert compute_parts(parse("CC(=O)Nc1ccc(O)cc1"))["fragments"].count(".") == 2
    assert compute_parts(parse("c1ccccc1"))["fragments"] == "c1ccccc1"  # nothing to cut


def test_scaffolds_are_those_of_murcko_with_two_rings_or_more(smiles):
    assert compute_parts(parse("CCC(c1ccccc1)N1CCOC1=O"))["scaffold"] == "O=C1OCCN1Cc1ccccc1"
    for text in ("CCO", "Cc1ccccc1", "[Na+].[Cl-]"):
        assert compute_parts(parse(text))["scaffold"] == ""
    for mol in map(parse, smiles):
        has_two_rings = mol.GetRingInfo().NumRings() >= 2
        assert compute_parts(mol)["scaffold"] == (MurckoScaffold.MurckoScaffoldSmiles(mol=mol) if has_two_rings else "")


def test_molecules_of_over_a_thousand_atoms_have_no_scaffold():
    for carbons, scaffold in ((990, "c1ccc2ccccc2c1"), (991, "")):
        assert compute_parts(parse("C" * carbons + "c1ccc2ccccc2c1"))["scaffold"] == scaffold


def test_fingerprints_are_morgan_bits_of_radius_two(smiles):
    for mol in map(parse, smiles):
        expected = np.array(AllChem.GetMorganFingerprintAsBitVect(mol, 2, 1024))
        np.testing.assert_array_equal(np.unpackbits(np.frombuffer(compute_fingerprint(mol), dtype=np.uint8)), expected)
        assert compute_parts(mol)["fingerprint"] == compute_fingerprint(mol)


def test_remove_stereo_removes_stereo_marks_and_nothing_else(smiles):
    alanine = to_canonical_smiles(parse("CC(N)C(=O)O"))
    assert remove_stereo("C[C@H](N)C(=O)O") == remove_stereo("C[C@@H](N)C(=O)O") == alanine
    assert remove_stereo("F/C=C/F") == remove_stereo("F/C=C\\F") == "FC=CF"
    for canonical in (to_canonical_smiles(parse(text)) for text in smiles):
        flat = remove_stereo(canonical)
        assert not set(flat) & set("@/\\") and flat == to_canonical_smiles(parse(flat))
        assert flat == canonical or set(canonical) & set("@/\\")


def test_skeletons_are_shared_by_tautomers_and_stereoisomers_and_by_nothing_else(smiles):
    assert compute_skeleton_of("Oc1ccccn1") == compute_skeleton_of("O=c1cccc[nH]1")
    stereoisomers = ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)O")
    assert len({compute_skeleton_of(text) for text in stereoisomers}) == 1
    assert compute_skeleton_of("CC(=O)Oc1ccccc1C(=O)O") == "BSYNRYMUTXBXSQ"
    assert len({compute_skeleton_of(text) for text in smiles}) == len(smiles)
    assert compute_skeleton_of("Oc1ccccn1") != compute_skeleton_of("Oc1cccnc1")
    assert compute_skeletons((["Oc1ccccn1", "CCO"],)) == [compute_skeleton_of("Oc1ccccn1"), compute_skeleton_of("CCO")]


def test_skeleton_of_a_molecule_without_an_inchi_is_its_smiles():
    dummy = parse("*CC")
    assert compute_skeleton(dummy, to_canonical_smiles(dummy)) == "*CC"


def test_guacamol_descriptors_are_nine_numbers_and_a_fingerprint_per_molecule(smiles):
    values, bits = compute_guacamol_descriptors([to_canonical_smiles(parse(text)) for text in smiles])
    assert len(values) == 9
    assert all(column.shape == (len(smiles),) and column.dtype == float for column in values.values())
    assert bits.shape == (len(smiles), 512) and bits.dtype == np.uint8
    for row, mol in enumerate(map(parse, smiles)):
        assert values["MolWt"][row] == Descriptors.MolWt(mol)
        assert values["NumHDonors"][row] == Descriptors.NumHDonors(mol)
        assert values["NumAromaticRings"][row] == Descriptors.NumAromaticRings(mol)
        assert values["NumRotatableBonds"][row] == Descriptors.NumRotatableBonds(mol)
        expected = np.array(AllChem.GetMorganFingerprintAsBitVect(mol, 2, 4096))
        np.testing.assert_array_equal(np.unpackbits(bits[row]), expected)
    no_values, no_bits = compute_guacamol_descriptors([])
    assert all(column.shape == (0,) for column in no_values.values()) and no_bits.shape == (0, 512)


def test_token_survival_is_a_ratio_of_lengths_and_at_most_one():
    assert compute_token_survival(["[C]", "[C]", "[O]", "[F]"], reencode("CO")) == 0.5
    assert compute_token_survival(["[C]"], reencode("CCO")) == 1
    assert compute_token_survival([], reencode("C")) == compute_token_survival(["[C]"], reencode("")) == 0
    assert compute_token_survival(["[C]"], reencode("C$C")) == 0  # a molecule SELFIES cannot write


def test_molecule_table_rows_have_descriptors_or_the_reason_for_a_rejection():
    rows = describe_rows([("OCC", "[O][C][C]"), ("C", None), ("", "[nop]"), ("C(C)(C)(C)(C)C", None), ("xx", None)])
    assert [row["reason"] for row in rows] == ["", "", "empty", "unphysical", "not_smiles"]
    assert [row["canonical"] for row in rows] == ["CCO", "C", "", "", ""]
    assert [row["token_survival"] for row in rows] == [1, None, 0, None, None]  # nothing is said without a string
    is_round_trip = [row["is_round_trip"] for row in rows]
    assert is_round_trip == [False, None, False, None, None]  # [C][C][O] would be round-trip consistent
    assert describe_rows([("CCO", "[C][C][O]")])[0]["is_round_trip"] is True
    assert all(set(row) == set(rows[0]) == {*rows[0], *DESCRIPTORS, *PARTS} for row in rows)
    assert rows[2]["mw"] is None and rows[2]["fingerprint"] is None and not rows[2]["is_valid"]


def test_filters_and_fingerprint_alone_equal_those_of_a_full_description(strings, vocabulary):
    alkyl_chloride, charged, no_molecule = ["[C]", "[C]", "[Cl]"], ["[C-1]"], []  # the first has an alert
    selfies = [*strings, alkyl_chloride, charged, no_molecule, strings[0]]
    brief = describe_selfies(selfies, vocabulary.constraints, describe=compute_filters_and_fingerprint)
    full = describe_selfies(selfies, vocabulary.constraints)
    columns = ["canonical", "is_valid", "is_round_trip", "passes_filters", "fingerprint"]
    assert brief[columns].equals(full[columns]) and set(brief["passes_filters"]) == {True, False, None}
    assert brief.drop(columns=[*columns, "reason", "token_survival"]).isna().all(axis=None)


def test_fingerprints_are_unpacked_in_their_order():
    fingerprints = [compute_fingerprint(parse(text)) for text in ("CCO", "c1ccccc1O")]
    bits = unpack_fingerprints(fingerprints)
    assert bits.shape == (2, 1024) and [np.packbits(row.astype(bool)).tobytes() for row in bits] == fingerprints
    assert unpack_fingerprints([]).shape == (0, 1024)


def test_molecule_table_keeps_the_order_of_the_samples_and_repeats_rows_of_repeated_texts():
    table = describe_smiles(["OCC", "x", "OCC", "CCO"], ["[O][C][C]", "[C]", "[C][C][O]", "[C][C][O]"])
    assert table["canonical"].tolist() == ["CCO", "", "CCO", "CCO"]
    assert table["is_round_trip"].tolist() == [False, False, True, True]  # the same SMILES from another string
    repeats = describe_smiles(["C", "CC", "C", "C"])
    assert repeats["mw"].tolist() == [repeats["mw"][0], repeats["mw"][1], repeats["mw"][0], repeats["mw"][0]]
    assert repeats.index.tolist() == [0, 1, 2, 3] and repeats["token_survival"].isna().all()
    assert len(describe_smiles([])) == 0 and list(describe_smiles([])) == list(repeats)
