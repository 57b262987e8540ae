"""From a string somebody wrote to the one canonical SMILES of its molecule, and from that to others at random."""

from __future__ import annotations

import re
from functools import cache

from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize

from molvae.runtime.seeds import derive

_CHARGE = re.compile(r"[+-]\d*(?::\d+)?\]")
LONGEST_TEXT = 5000  # characters; RDKit needs minutes and gigabytes for strings of megabytes


class Rejected(Exception):
    """A row that becomes no molecule: a reason code for counting and a detail for reading."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def standardise(text: str, *, largest_fragment: bool = True, neutralise: bool = True, stereo: str = "keep") -> str:
    """Canonical SMILES of the molecule that `text` writes; atom-map numbers go.

    Args:
        largest_fragment: keep the fragment with most heavy atoms (salts and solvents go).
        neutralise: add or remove H+ where that removes a charge; nitro groups and the like stay.
        stereo: "keep", or "strip" for a molecule without @, / and \\ marks.
    Raises:
        Rejected: `empty`, `too_long`, `not_smiles`, `unphysical` (RDKit's reason in the detail) or `wildcard_atom`.
    """
    mol = parse(text)
    edited = False
    if largest_fragment and "." in text:
        mol, edited = _chooser().choose(mol), True
    if neutralise and _CHARGE.search(text):
        mol, edited = _uncharger().uncharge(mol), True
    if ":" in text:
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
        edited = True
    if stereo == "strip" and any(mark in text for mark in "@/\\"):
        Chem.RemoveStereochemistry(mol)
        edited = True
    smiles = Chem.MolToSmiles(mol)
    if edited:  # perception runs on reading only: an edited molecule is canonical after one more turn
        smiles = Chem.MolToSmiles(parse(smiles))
    return smiles


def randomise(smiles: str, n: int) -> list[str]:
    """`n` spellings of a molecule, each from a random atom along a random path; some may be the same.

    They depend on the canonical SMILES `smiles` only, and the first of many are those of few.
    """
    seed = 1 + derive(0, "variants", smiles) % (2**31 - 1)  # RDKit takes 0 for no seed
    return list(Chem.MolToRandomSmilesVect(parse(smiles), n, seed))


def parse(text: str) -> Chem.Mol:
    """RDKit molecule of a SMILES; an empty string, which RDKit takes for a molecule without atoms, is refused.

    Raises:
        Rejected: see `standardise`.
    """
    with rdBase.BlockLogs():  # what RDKit would print becomes the reason instead
        return read(text)


def read(text: str) -> Chem.Mol:
    """The same for callers that silence RDKit themselves, once for many: a third faster."""
    text = text.strip()
    if not text:
        raise Rejected("empty")
    if len(text) > LONGEST_TEXT:
        raise Rejected("too_long", f"{len(text)} characters")
    mol = Chem.MolFromSmiles(text)
    if mol is None:
        raise _explain(text)
    if mol.GetNumAtoms() == 0:
        raise Rejected("empty")
    if "*" in text:
        raise Rejected("wildcard_atom", "* stands for no element")
    return mol


def _explain(text: str) -> Rejected:
    """Why RDKit refuses a string: its grammar or its chemistry."""
    mol = Chem.MolFromSmiles(text, sanitize=False)
    if mol is None:
        return Rejected("not_smiles", "RDKit cannot parse it")
    problems = Chem.DetectChemistryProblems(mol)
    return Rejected("unphysical", "; ".join(problem.Message() for problem in problems[:3]))


@cache
def _chooser() -> rdMolStandardize.LargestFragmentChooser:
    return rdMolStandardize.LargestFragmentChooser()


@cache
def _uncharger() -> rdMolStandardize.Uncharger:
    return rdMolStandardize.Uncharger()
