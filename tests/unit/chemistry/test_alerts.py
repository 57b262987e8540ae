"""Structural alerts are those that a plain search finds, structural flags those that a chemist would name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, rdBase
from rdkit.Chem import QED

from molvae.chemistry import alerts
from molvae.chemistry.alerts import Composition, SubstructureScreen, find_alerts, passes_basic_filters
from molvae.chemistry.descriptors import _load_qed_alerts, compute_descriptors
from molvae.chemistry.selfies_codec import build_constraints, decode_selfies
from molvae.chemistry.structural_flags import PATTERNS, _load_screen, find_structural_flags

UNUSUAL_SMILES = (
    "C", "[H][H]", "[H]", "[2H]OC", "[H]C([H])([H])Br", "[H]N([H])c1ccccc1", "[13CH3]C(=O)[18OH]", "[CH2]C", "[CH]=C",
    "C[O]", "[O][O]", "C[N]C", "C[S]", "[C]", "[C-]#[O+]", "[N-]=[N+]=C", "CN=[N+]=[N-]", "C[N+](=O)[O-]", "C[NH3+]",
    "CC(=O)[O-].[Na+]", "[NH4+].[Cl-]", "C[S+](C)C", "c1cc[nH+]cc1", "C[N+](C)(C)CC(=O)[O-]", "C=C=C", "C=C=C=C",
    "CC=C=CC1C=C=C1", "C=C=O", "CN=C=S", "N=C=N", "S=C=S", "O=C=O", "C1=CC1", "C1#CCCC1", "C1=C=CCCC1", "c1cc#ccc1",
    "C1CCCCCCCC1", "CB(O)O", "OB1OCCO1", "[BH4-]", "CC1(C)OB(c2ccccc2)OC1(C)C", "c1ccccc1[Hg]Cl", "C[Zn]C", "[Fe]",
    "C[Si](C)(C)Cl", "C[Sn](C)(C)C", "C[As](C)C", "C[Se]C", "c1cc[se]c1", "O[Se](=O)O", "[Cu+2].[O-]C=O", "[Pt](Cl)Cl",
    "CP(C)C", "CP(=O)(Cl)OC", "CP(C)(C)(C)C", "OP(O)(=S)S", "CS(C)(C)C", "CS(C)(C)(C)(C)C", "FS(F)(F)(F)F",
    "CS(=O)(=O)Cl", "CSSC", "COOC", "NNN", "CON(C)OC", "NN=NN", "ON=NO", "CC(=O)C(=O)Cl", "BrC(Br)(Br)Br", "FC(F)(F)I",
    "CI(Cl)Cl", "O=C1NC(=S)SC1=Cc1ccccc1", "O=C1C=CC(=O)C=C1", "Oc1ccccc1O", "CN(C)c1ccc(N=Nc2ccccc2)cc1", "C1OC1",
    "C1NC1", "N#CC#N", "O=CC=CC=O", "ClCCN(C)CCCl", "Nc1ccccc1[N+](=O)[O-]", "C=CC(=O)OC", "CC(=S)N", "CC(O)=S",
    "O=C1CCC(=O)O1", "C1=CC=CC1[Fe]C1C=CC=C1", "c1ccc2c(c1)[nH]c1ccccc12", "C12C3C4C1C5C2C3C45", "C/C=C\\C",
    "F[C@](Cl)(Br)I", "[Xe]",
)  # fmt: skip
SYMBOLS = (
    "[C]", "[=C]", "[#C]", "[N]", "[=N]", "[O]", "[=O]", "[S]", "[=S]", "[F]", "[Cl]", "[Br]", "[P]", "[B]", "[Si]",
    "[N+1]", "[O-1]", "[CH1]", "[CH2]", "[2H]", "[13C]", "[Se]", "[Na+1]", "[Zn]", "[Ring1]", "[=Ring1]", "[Ring2]",
    "[Branch1]", "[=Branch1]", "[#Branch1]",
)  # fmt: skip


def search_plainly(patterns: Iterable[Chem.Mol], mol: Chem.Mol) -> list[int]:
    """Try every pattern on a molecule, without a screen."""
    return [number for number, pattern in enumerate(patterns) if mol.HasSubstructMatch(pattern)]


def assert_screens_equal_plain_search(mol: Chem.Mol) -> list[int]:
    """Compare all screens with a plain search, and return the alerts that match."""
    composition, with_hydrogens = Composition.from_mol(mol), Chem.AddHs(mol)
    for screen in (_load_qed_alerts(), _load_screen()):
        assert list(screen.find_matches(mol, composition)) == search_plainly(screen.patterns, mol)
    _, screen = alerts._load_alerts()
    matches = list(screen.find_matches(with_hydrogens, composition))
    assert matches == search_plainly(screen.patterns, with_hydrogens)
    return matches


def iter_example_molecules(patterns: Iterable[Chem.Mol]) -> Iterator[Chem.Mol]:
    """Build the molecules that patterns stand for where what they leave open is a carbon or a single bond."""
    for pattern in patterns:
        mol = Chem.RWMol()
        for pattern_atom in pattern.GetAtoms():
            atom = Chem.Atom(pattern_atom.GetAtomicNum() or 6)
            atom.SetFormalCharge(pattern_atom.GetFormalCharge())
            mol.AddAtom(atom)
        for bond in pattern.GetBonds():
            bond_type = bond.GetBondType()
            ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            mol.AddBond(*ends, Chem.BondType.SINGLE if bond_type == Chem.BondType.UNSPECIFIED else bond_type)
            if bond_type == Chem.BondType.AROMATIC:
                for end in ends:
                    mol.GetAtomWithIdx(end).SetIsAromatic(True)
        if (parsed := Chem.MolFromSmiles(Chem.MolToSmiles(mol))) is not None:
            yield parsed


@pytest.fixture(autouse=True)
def silence():
    with rdBase.BlockLogs():
        yield


def test_alert_table_has_the_mcf_and_pains_filters_of_moses():
    names, screen = alerts._load_alerts()
    assert len(names) == len(screen.patterns) == 502
    assert sum(name.startswith("MCF") for name in names) == 22 and names[0].startswith("MCF")
    assert all(name.startswith(("MCF", "PAINS ")) for name in names)
    assert all(pattern is not None for pattern in screen.patterns)
    assert _load_qed_alerts().patterns is QED.StructuralAlerts and len(_load_screen().patterns) == len(PATTERNS)


def test_substructure_screens_equal_a_plain_search_on_real_molecules(smiles):
    for text in smiles:
        assert_screens_equal_plain_search(Chem.MolFromSmiles(text))


@pytest.mark.parametrize("smiles", UNUSUAL_SMILES)
def test_substructure_screens_equal_a_plain_search_on_unusual_molecules(smiles):
    mol = Chem.MolFromSmiles(smiles)
    matches = assert_screens_equal_plain_search(mol)
    assert assert_screens_equal_plain_search(Chem.AddHs(mol)) == matches  # hydrogens written as atoms or not


@given(st.lists(st.sampled_from(SYMBOLS), min_size=2, max_size=30))
@settings(max_examples=40)
def test_substructure_screens_equal_a_plain_search_on_random_molecules(symbols):
    if (mol := Chem.MolFromSmiles(decode_selfies(symbols, build_constraints(SYMBOLS)))) is not None:
        assert_screens_equal_plain_search(mol)


def test_substructure_screens_equal_a_plain_search_on_molecules_made_of_the_patterns():
    _, screen = alerts._load_alerts()
    matches = set()
    for mol in iter_example_molecules([*screen.patterns, *QED.StructuralAlerts]):
        matches.update(assert_screens_equal_plain_search(mol))
    assert len(matches) > 250  # of 502 alerts: the comparison is not one of nothing with nothing


def test_substructure_screen_skips_only_patterns_that_the_molecule_lacks_atoms_for():
    tried = []

    class RecordingMol(Chem.Mol):
        def HasSubstructMatch(self, pattern) -> bool:  # noqa: N802 - RDKit's name
            tried.append(Chem.MolToSmarts(pattern))
            return super().HasSubstructMatch(pattern)

    smarts = ("CO", "CN", "C=O", "[N,O]", "[S,P]", "[O-]", "*", "[H]O", "CCCC", "[N,!S]", "[N,$(CO)]", "[N,CH3]")
    mol = Chem.MolFromSmiles("CCO")
    screen = SubstructureScreen([Chem.MolFromSmarts(text) for text in smarts])
    matches = screen.find_matches(RecordingMol(Chem.AddHs(mol)), Composition.from_mol(mol))
    assert list(matches) == [0, 3, 6, 7, 9, 10, 11]
    assert len(tried) == 7


def test_alerts_are_named_and_count_implicit_hydrogens():
    def find_names(smiles: str) -> list[str]:
        mol = Chem.MolFromSmiles(smiles)
        return find_alerts(Chem.AddHs(mol), Composition.from_mol(mol))

    assert find_names("Cn1cnc2c1c(=O)n(C)c(=O)n2C") == []
    assert find_names("CCBr") == find_names("[H]C([H])(C)Br") == ["MCF4"]  # [H]C([H])([#6])Br
    assert any(name.startswith("PAINS ") for name in find_names("O=C1NC(=S)SC1=Cc1ccccc1"))  # rhodanine


def test_composition_counts_hydrogens_whether_explicit_or_not():
    ethanol = Composition.from_mol(Chem.MolFromSmiles("CCO"))
    assert dict(ethanol.atoms) == {6: 2, 8: 1, 1: 6}
    bonds = (ethanol.kinds[1, 6, 1], ethanol.kinds[1, 8, 1], ethanol.kinds[6, 6, 1], ethanol.kinds[6, 8, 0])
    assert bonds == (5, 1, 1, 1)
    assert ethanol.kinds["bond", 1] == 8 and ethanol.radicals == 0
    assert Composition.from_mol(Chem.AddHs(Chem.MolFromSmiles("CCO"))) == ethanol
    pyridinium = Composition.from_mol(Chem.MolFromSmiles("c1cc[nH+]cc1"))
    assert (pyridinium.atoms[1006], pyridinium.atoms[6], pyridinium.atoms[1007]) == (5, 5, 1)
    assert pyridinium.kinds["charge", 1] == 1 and pyridinium.kinds["bond", 12] == 6
    assert Composition.from_mol(Chem.MolFromSmiles("[CH]C[O]")).radicals == 3


@pytest.mark.parametrize(
    ("smiles", "passes"),
    [
        ("CC(=O)Nc1ccc(O)cc1", True),
        ("FC(Cl)(Br)CSCCN", True),  # each of the elements
        ("[H]C([H])([H])O", True),
        ("C1CCCCCC1", True),
        ("C1CCCCCCC1", False),  # eight atoms
        ("C[NH3+]", False),
        ("CC(=O)[O-]", False),
        ("C[N+](=O)[O-]", False),  # no net charge, but charged atoms
        ("CI", False),
        ("CP(C)C", False),
        ("c1cc[se]c1", False),
        ("OB(O)c1ccccc1", False),
        ("C[Si](C)(C)C", False),
    ],
)
def test_basic_filters_pass_molecules_without_large_rings_charges_or_unusual_elements(smiles, passes):
    mol = Chem.MolFromSmiles(smiles)
    assert passes_basic_filters(measure_largest_ring(mol), Composition.from_mol(mol)) is passes


def measure_largest_ring(mol: Chem.Mol) -> int:
    return max(map(len, mol.GetRingInfo().AtomRings()), default=0)


def list_structural_flags(smiles: str) -> list[str]:
    mol = Chem.MolFromSmiles(smiles)
    return find_structural_flags(mol, measure_largest_ring(mol), Composition.from_mol(mol))


@pytest.mark.parametrize(
    ("smiles", "flag"),
    [
        ("C1=CC1", "double bond in a three-membered ring"),
        ("c1cc#ccc1", "triple bond in a ring of up to 8 atoms"),
        ("C1CCC#CCCC1", "triple bond in a ring of up to 8 atoms"),
        ("C1=C=CCCC1", "cumulated double bonds in a ring"),
        ("C1=CC=C1", "cyclobutadiene"),
        ("[CH2]C", "1 radical electron"),
        ("[CH2]C[CH2]", "2 radical electrons"),
        ("C1CCCCCCCC1", "9-membered ring"),
        ("CS(C)(C)C", "sulfur with four bonds and no S=O"),
        ("CS(C)(C)(C)(C)C", "sulfur with six bonds and no S=O"),
        ("CP(C)(C)(C)C", "phosphorus with five bonds and no P=O or P=S"),
        ("FI(F)(F)(F)F", "halogen with more than one bond"),
        ("CN(=O)=O", None),  # RDKit reads it as the nitro group that is meant
        ("CN(C)N(C)N(C)C", "chain of three heteroatoms"),
        ("NNN", "chain of three heteroatoms"),
        ("COOC", "peroxide"),
    ],
)
def test_structural_flag_names_what_is_unusual_about_a_molecule(smiles, flag):
    assert list_structural_flags(smiles) == ([flag] if flag else [])


def test_each_structural_flag_pattern_matches_an_example_or_a_valence_that_rdkit_refuses():
    with_five_bonds = Chem.MolFromSmiles("CN(C)(C)(C)C", sanitize=False)
    with_five_bonds.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(with_five_bonds)
    flags = find_structural_flags(with_five_bonds, 0, Composition.from_mol(with_five_bonds))
    assert flags == ["nitrogen with five bonds"]
    covered = {flag for smiles in UNUSUAL_SMILES for flag in list_structural_flags(smiles)} | {*flags}
    assert set(PATTERNS) - covered <= {"cyclobutadiene"}  # which has an example above


@pytest.mark.parametrize(
    "smiles",
    ["CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "Cc1ccc(S(N)(=O)=O)cc1", "O=S(=O)(Nc1ccccn1)c1ccccc1",
     "CS(C)=O", "CS(=O)(=O)c1ccccc1", "C[N+](=O)[O-]", "O=[N+]([O-])OCC(CO[N+](=O)[O-])O[N+](=O)[O-]", "COP(=O)(OC)OC",
     "OP(O)(=O)OP(O)(O)=O", "COP(=S)(OC)OC", "CN=[N+]=[N-]", "C1CCCCCCC1", "C=C=C", "CC#CC", "NNC(=O)c1ccncc1",
     "CC1(C)C2CCC(C2)C1=C", "C1=CC2C=CC1C2", "c1ccc2cccc2cc1", "c1nnn[nH]1", "CN(C)N=Nc1ccccc1", "CS(=N)(=O)C",
     "C1=CCC1"],
)  # fmt: skip
def test_common_molecules_have_no_structural_flags(smiles):
    assert list_structural_flags(smiles) == []


def test_structural_flags_of_a_molecule_are_all_listed_in_its_descriptors():
    smiles = "[CH2]C1CCCCCCCCC1OOC"
    assert list_structural_flags(smiles) == ["1 radical electron", "10-membered ring", "peroxide"]
    flags = compute_descriptors(Chem.MolFromSmiles(smiles))["structural_flags"]
    assert flags == "1 radical electron; 10-membered ring; peroxide"
