"""Which fragment is the molecule, and which of the others may be a compound of its own."""

from __future__ import annotations

import pytest
from rdkit import Chem

from molvae.chemistry.fragments import COUNTER_IONS, SECOND_COMPOUND_ATOMS, choose_fragment, contains_second_compound
from molvae.chemistry.standardise import parse_smiles, standardise_with_record

IBUPROFEN, PARACETAMOL = "CC(C)Cc1ccc(C(C)C(=O)O)cc1", "CC(=O)Nc1ccc(O)cc1"


@pytest.mark.parametrize(
    ("text", "smiles", "dropped"),
    [
        ("CCO", "CCO", []),
        ("C1.C1", "CC", []),  # a dot, and one fragment
        ("CC(=O)[O-].[Na+]", "CC(=O)O", ["[Na+]"]),
        ("CC(=O)[O-].CC(=O)[O-].[Ca+2]", "CC(=O)O", ["CC(=O)[O-]", "[Ca+2]"]),
        ("O.CCN.O.Cl", "CCN", ["Cl", "O", "O"]),
        ("CCO.CCO", "CCO", ["CCO"]),
        ("CCN.OCC", "CCO", ["CCN"]),
        ("CCCC=O.CCC(C)=O", "CCC(C)=O", ["CCCC=O"]),  # isomers: the first SMILES
        ("CCCCN.[2H]C([2H])([2H])S(=O)C([2H])([2H])[2H]", "CCCCN", ["[2H]C([2H])([2H])S(=O)C([2H])([2H])[2H]"]),
        ("N.N.Cl[Pt]Cl", "[Cl][Pt][Cl]", ["N", "N"]),  # no carbon: the one of most heavy atoms
        ("NCCN.[Cl-].[Cl-].[Pt+2]", "NCCN", ["[Cl-]", "[Cl-]", "[Pt+2]"]),  # a complex written as ions
        ("[Na]OC(C)=O", "CC(=O)[O][Na]", []),  # a bond to a metal stays
        ("[CH3:1][OH:2].[Cl-:3].[OH2:4]", "CO", ["O", "[Cl-]"]),  # without atom maps
        ("C[C@H](N)C(=O)O.C[C@@H](N)C(=O)O", "C[C@@H](N)C(=O)O", ["C[C@H](N)C(=O)O"]),
    ],
)
def test_dropped_fragments_are_listed_as_canonical_smiles_in_any_order_of_the_text(text, smiles, dropped):
    for parts in (text.split("."), text.split(".")[::-1]):
        record = standardise_with_record(".".join(parts))
        assert (record.smiles, record.dropped) == (smiles, dropped)


def test_no_fragment_is_dropped_where_all_are_to_be_kept():
    assert tuple(standardise_with_record("CCO.[Na+]", largest_fragment=False)) == ("CCO.[Na+]", [], 0)


def test_the_chosen_fragment_and_the_dropped_ones_are_all_there_are(smiles):
    for first, second, third in zip(smiles, smiles[1:], smiles[2:], strict=False):
        mol = parse_smiles(f"{first}.{second}.{third}")
        chosen, dropped = choose_fragment(mol)
        fragments = sorted(map(Chem.MolToSmiles, Chem.GetMolFrags(mol, asMols=True)))
        assert sorted([Chem.MolToSmiles(chosen), *dropped]) == fragments


@pytest.mark.parametrize(
    ("dropped", "expected"),
    [
        ([], False),
        (["O", "O", "Cl", "[Na+]"], False),
        (["c1ccccc1", "CN(C)C=O"], False),
        (["O=C([O-])/C=C/C(=O)O"], False),
        ([PARACETAMOL], True),  # 11 heavy atoms
        (["Cl", IBUPROFEN], True),
        (["F[P-](F)(F)(F)(F)F", "O=P(O)(O)OP(=O)(O)OP(=O)(O)O"], False),  # no carbon
        (["Cc1ccc(S(=O)(=O)[O-])cc1"], False),  # a counter-ion, charged
        (["O=C(O)[C@H](O)[C@@H](O)C(=O)O"], False),  # a counter-ion with stereo marks
        (["CCCC[N+](CCCC)(CCCC)CCCC"], False),
        (["C" * (SECOND_COMPOUND_ATOMS - 1)], False),
        (["C" * SECOND_COMPOUND_ATOMS], True),
    ],
)
def test_a_dropped_organic_fragment_of_ten_heavy_atoms_is_a_second_compound_unless_it_is_a_counter_ion(
    dropped, expected
):
    assert contains_second_compound(dropped) is expected


def test_counter_ions_are_listed_once_and_are_as_large_as_a_second_compound():
    mols = [parse_smiles(smiles) for smiles in COUNTER_IONS]
    assert len({Chem.MolToSmiles(mol) for mol in mols}) == len(COUNTER_IONS)
    assert min(mol.GetNumHeavyAtoms() for mol in mols) >= SECOND_COMPOUND_ATOMS
    assert not any(contains_second_compound([smiles]) for smiles in COUNTER_IONS)
