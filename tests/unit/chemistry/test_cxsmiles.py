"""CXSMILES: what of the extension a plain SMILES keeps, and what is refused."""

from __future__ import annotations

import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor

from molvae.chemistry.cxsmiles import resolve_extension
from molvae.chemistry.standardise import parse_smiles, standardise, standardise_with_record
from molvae.errors import Rejected

COORDINATES = "(0,0,;1,0.5,;2,0,;1,1.5,)"


@pytest.mark.parametrize("group", ["&1", "o1", "&", "o", "&12"])
def test_both_enantiomers_of_a_racemate_are_one_molecule_without_a_mark(group):
    for smiles in (r"C[C@H](F)Cl", r"C[C@@H](F)Cl"):
        assert tuple(standardise_with_record(f"{smiles} |{group}:1|")) == ("CC(F)Cl", [], 1)


@pytest.mark.parametrize(
    ("text", "expected", "unmarked"),
    [
        ("C[C@H](F)Cl |a:1|", "C[C@H](F)Cl", 0),
        ("C[C@H](O)[C@@H](F)Cl |&1:1|", "CC(O)[C@@H](F)Cl", 1),
        ("C[C@H](O)[C@@H](F)Cl |a:3,&1:1|", "CC(O)[C@@H](F)Cl", 1),
        ("C[C@H](O)[C@@H](F)Cl |&1:1,3|", "CC(O)C(F)Cl", 2),
        ("C[C@H](O)[C@@H](F)Cl |&1:1,o2:3|", "CC(O)C(F)Cl", 2),
        ("C[C@H](O)[C@@H](F)Cl |r|", "CC(O)C(F)Cl", 2),
        ("C[C@H](O)[C@@H](F)Cl |r,a:1|", "C[C@H](O)C(F)Cl", 1),
        ("C[C@H](F)/C=C/Cl |&1:1|", "CC(F)/C=C/Cl", 1),  # the double bond keeps its marks
        ("[H][C@](C)(F)Cl |&1:1|", "CC(F)Cl", 1),  # a hydrogen that is named counts as an atom
        ("[Na+].C[C@H](F)C(=O)[O-] |f:0.1,&1:2|", "CC(F)C(=O)O", 1),
        ("CC(F)Cl |&1:1|", "CC(F)Cl", 0),  # nothing was marked
        ("C[C@H](C)C |&1:1|", "CC(C)C", 0),  # no centre
        ("C[S@](=O)CC |o1:1|", "CCS(C)=O", 1),
        (f"CC(F)Cl |{COORDINATES},wU:1.0|", "C[C@H](F)Cl", 0),  # a wedge with coordinates is a mark
        (f"CC(F)Cl |{COORDINATES},wU:1.0,&1:1|", "CC(F)Cl", 1),
        ("C[C@H](F)Cl |w:1.0|", "CC(F)Cl", 0),  # a wavy bond
        ("Cc1cccc(I)c1-c1c(C)cccc1I |wU:7.6,&1:7|", "Cc1cccc(I)c1-c1c(C)cccc1I", 0),  # an atropisomer
    ],
)
def test_centres_lose_their_mark_where_their_absolute_configuration_is_not_known(text, expected, unmarked):
    record = standardise_with_record(text)
    assert (record.smiles, record.unmarked_centres) == (expected, unmarked)
    assert standardise(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("C[C@H](F)Cl |$a;&1:1;c,m:1;d$|", "C[C@H](F)Cl"),  # labels that look like features
        ("CCO |(0,0,;1,0,;2,0,)|", "CCO"),
        ("CCO |(1,2,3;4,5,6;7,8,9)|", "CCO"),
        ("CCO |$_AV:1;2;3$,lp:2:2|", "CCO"),
        ("CCO |atomProp:0.name.value|", "CCO"),
        ("CCCC |SgD:1,2:name:data::::|", "CCCC"),
        ("C1=CCCCCCC1 |t:0|", r"C1=C/CCCCCC/1"),
        ("C1=CCCCCCC1 |c:0|", r"C1=C\CCCCCC/1"),
        ("C1=CCC=CC1 |c:0,3|", "C1=CCC=CC1"),  # in small rings it can be no other
        ("C/C=C/C |ctu:1|", "CC=CC"),
        ("CC |^1:0|", "[CH2]C"),
        ("CCO ||", "CCO"),
        ("CCO | |", "CCO"),
        ("CCO |r| ethanol", "CCO"),
        ("CCO\t|r|\tethanol", "CCO"),
    ],
)
def test_other_extensions_and_names_do_not_break_reading(text, expected):
    assert standardise(text) == expected
    assert Chem.MolToSmiles(parse_smiles(text)) == expected


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("CCO |$_R1;;$|", "not_one_structure", "an R group or an attachment point"),
        ("*CO |$_R1;;$|", "not_one_structure", "an R group or an attachment point"),
        ("*CO |$_AP1;;$|", "not_one_structure", "an R group or an attachment point"),
        ("*CO |$star_e;;$|", "wildcard_atom", "no element"),
        ("CCCC |Sg:n:1,2::ht|", "not_one_structure", "polymer"),
        ("*C.C1CCCCC1 |m:0:2.3.4|", "not_one_structure", "one of several atoms"),
        ("CC.C1CCCCC1 |c:2,m:0:2.3.4|", "not_one_structure", "one of several atoms"),
        ("C1CCCCC1 |LN:1:1.3.2.6|", "not_one_structure", "link node"),
        ("CCO |u:1|", "not_one_structure", "query"),
        ("CCO |RG:_R1={C}|", "not_one_structure", "R group"),
        ("C[C@H](F)Cl |&1:1", "not_cxsmiles", "no second bar"),
        ("C[C@H](F)Cl |racemate|", "not_cxsmiles", "'racemate' in the extension is not known"),
        ("C[C@H](F)Cl |&1:9|", "not_cxsmiles", "'9' as its atoms, and the molecule 4 atoms"),
        ("C[C@H](F)Cl |&1:-1|", "not_cxsmiles", "'-1' as its atoms"),
        ("C[C@H](F)Cl |&1:|", "not_cxsmiles", "'' as its atoms"),
        ("C[C@H](F)Cl |a:99999999999999999999999|", "not_cxsmiles", ""),  # the detail depends on the RDKit
        ("CCO |^1:x|", "not_cxsmiles", "RDKit cannot read"),
        ("C( |&1:1|", "not_smiles", "cannot parse"),
        ("C(C)(C)(C)(C)C |&1:1|", "unphysical", "valence"),
        ("C[C@H](F)Cl|&1:1|", "not_smiles", "cannot parse"),
        ("|&1:1|", "not_smiles", "cannot parse"),
        ("CC " + "|" + "(" + "1," * 3000 + ")|", "too_long", "characters"),
    ],
)
def test_what_is_no_one_structure_or_no_extension_of_the_molecule_is_rejected(text, reason, detail):
    for read in (standardise, parse_smiles):
        with pytest.raises(Rejected) as caught:
            read(text)
        assert caught.value.reason == reason
        assert detail in caught.value.detail


def test_a_resolved_extension_is_a_plain_smiles():
    assert resolve_extension("C[C@H](F)Cl |&1:1| name") == ("CC(F)Cl", 1)
    assert resolve_extension("OCC name |x|") == ("OCC", 0)
    assert not parse_smiles("C[C@H](O)[C@@H](F)Cl |&1:1|").GetStereoGroups()


@pytest.mark.parametrize("kind", [Chem.StereoGroupType.STEREO_AND, Chem.StereoGroupType.STEREO_OR])
def test_extensions_that_rdkit_writes_are_read_back(kind):
    for text in ("C[C@H](F)Cl", "N[C@@H](C)C(=O)O.Cl", "CN1CCC[C@H]1c1cccnc1", "C[C@]12CC[C@H](O)C[C@@H]1CCC2"):
        mol = Chem.RWMol(parse_smiles(text))
        rdDepictor.Compute2DCoords(mol)
        centres = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetChiralTag()]
        mol.SetStereoGroups([Chem.CreateStereoGroup(kind, mol, centres)])
        record = standardise_with_record(Chem.MolToCXSmiles(mol))
        assert (record.smiles, record.unmarked_centres) == (standardise(text, stereo="strip"), len(centres))


def test_nothing_is_printed_for_an_extension_that_rdkit_refuses(capfd):
    with pytest.raises(Rejected):
        standardise("CCO |^1:x|")
    with rdBase.BlockLogs():
        assert standardise("C[C@H](F)Cl |&1:1|") == "CC(F)Cl"
    assert capfd.readouterr() == ("", "")
