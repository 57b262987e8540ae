"""Which fragment of a SMILES with dots is the molecule, and what the others are."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize

SECOND_COMPOUND_ATOMS = 10  # heavy atoms from which a dropped fragment with carbon may be a compound of its own
# Acids, bases and ions of that size that are common in salts of drugs; charges and stereo marks do not matter.
COUNTER_IONS = (
    "Cc1ccc(S(=O)(=O)O)cc1",  # tosylate
    "O=S(=O)(O)c1ccccc1",  # besylate
    "O=S(=O)(O)c1ccc2ccccc2c1",  # napsylate
    "CC1(C)C2CCC1(CS(=O)(=O)O)C(=O)C2",  # camsylate
    "O=C(O)CC(O)(CC(=O)O)C(=O)O",  # citrate
    "O=C(O)C(O)C(O)C(=O)O",  # tartrate
    "O=C(O)C(OC(=O)c1ccccc1)C(OC(=O)c1ccccc1)C(=O)O",  # dibenzoyl tartrate
    "Cc1ccc(C(=O)OC(C(=O)O)C(OC(=O)c2ccc(C)cc2)C(=O)O)cc1",  # ditoluoyl tartrate
    "O=C(O)C(O)C(O)C(O)C(O)CO",  # gluconate
    "O=C(O)C(O)C(OC1OC(CO)C(O)C(O)C1O)C(O)C(O)CO",  # lactobionate
    "O=C(O)c1ccccc1O",  # salicylate
    "O=C(O)C(O)c1ccccc1",  # mandelate
    "O=C(O)c1ccc2ccccc2c1O",  # xinafoate
    "O=C(O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O",  # pamoate
    "CNCC(O)C(O)C(O)C(O)CO",  # meglumine
    "c1ccc(CNCCNCc2ccccc2)cc1",  # benzathine
    "C1CCC(NC2CCCCC2)CC1",  # dicyclohexylamine
    "CCCC[N+](CCCC)(CCCC)CCCC",  # tetrabutylammonium
)


def choose_fragment(mol: Chem.Mol) -> tuple[Chem.Mol, list[str]]:
    """Choose the fragment that is the molecule: of those with carbon, if any has it, that of most heavy atoms.

    Of equal ones the one whose heavy atoms weigh more is taken, in whole daltons, then the first canonical SMILES.
    RDKit's LargestFragmentChooser chooses the same, but counts hydrogen atoms that are written.

    Returns:
        the fragment, and the canonical SMILES of the others, sorted.
    """
    fragments = Chem.GetMolFrags(mol, asMols=True)
    ranked = sorted((*_rank(fragment), number) for number, fragment in enumerate(fragments))
    return fragments[ranked[0][-1]], sorted(smiles for *_, smiles, _ in ranked[1:])


def _rank(fragment: Chem.Mol) -> tuple[bool, int, int, str]:
    """By what fragments are sorted, the one to keep first."""
    atoms = [atom for atom in fragment.GetAtoms() if atom.GetAtomicNum() > 1]
    is_inorganic = all(atom.GetAtomicNum() != 6 for atom in atoms)
    weight = round(sum(atom.GetMass() for atom in atoms))  # its last digits depend on the order of the atoms
    return is_inorganic, -len(atoms), -weight, Chem.MolToSmiles(fragment)


def contains_second_compound(dropped: Iterable[str]) -> bool:
    """Find out whether one of the dropped fragments may be a compound of its own, so that the row was a mixture.

    That is one with carbon and SECOND_COMPOUND_ATOMS or more heavy atoms which is not in COUNTER_IONS.

    >>> contains_second_compound(["Cl", "Cc1ccc(S(=O)(=O)O)cc1"]), contains_second_compound(["CC(=O)Nc1ccc(O)cc1"])
    (False, True)
    """
    return any(_is_second_compound(smiles) for smiles in dropped)


@lru_cache(maxsize=4096)
def _is_second_compound(smiles: str) -> bool:
    mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumHeavyAtoms() < SECOND_COMPOUND_ATOMS:
        return False
    return any(atom.GetAtomicNum() == 6 for atom in mol.GetAtoms()) and _flatten(mol) not in _load_counter_ions()


@cache
def _load_counter_ions() -> frozenset[str]:
    return frozenset(_flatten(Chem.MolFromSmiles(smiles)) for smiles in COUNTER_IONS)


def _flatten(mol: Chem.Mol) -> str:
    """Write a molecule as canonical SMILES, without charges that H+ removes and without stereo marks."""
    mol = uncharge(mol)
    Chem.RemoveStereochemistry(mol)
    smiles: str = Chem.MolToSmiles(mol)
    return smiles


def uncharge(mol: Chem.Mol) -> Chem.Mol:
    """Add or remove H+ where that removes a charge."""
    return _load_uncharger().uncharge(mol)


@cache
def _load_uncharger() -> rdMolStandardize.Uncharger:
    return rdMolStandardize.Uncharger()
