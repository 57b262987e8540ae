"""Standardise SMILES, and randomise them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from rdkit import Chem, rdBase

from molvae.chemistry.cxsmiles import resolve_extension
from molvae.chemistry.fragments import choose_fragment, uncharge
from molvae.errors import Rejected

_CHARGE = re.compile(r"[+-]\d*(?::\d+)?\]")
INVISIBLE = "\ufeff\u200b"  # byte-order mark, zero-width space: what spreadsheets leave at the ends
STANDARDISE_SETTINGS = ("largest_fragment", "neutralise", "stereo")  # of featurize: arguments of `standardise`
MAX_CHARACTERS = 5000  # of a SMILES; RDKit needs minutes and gigabytes for strings of megabytes


class Standardised(NamedTuple):
    """A standardised molecule, and what was lost.

    Attributes:
        smiles: canonical.
        dropped: canonical SMILES of the fragments that were dropped, sorted.
        unmarked_centres: how many centres lost their mark because their absolute configuration is not known.
    """

    smiles: str
    dropped: list[str]
    unmarked_centres: int


def standardise(text: str, *, largest_fragment: bool = True, neutralise: bool = True, stereo: str = "keep") -> str:
    r"""Standardise the molecule that `text` writes; atom-map numbers are removed.

    Args:
        text: a SMILES or a CXSMILES, see `molvae.chemistry.cxsmiles`; a name may stand behind an extension.
        largest_fragment: keep one fragment, which drops salts and solvents, see `choose_fragment`.
        neutralise: add or remove H+ where that removes a charge; nitro groups and the like stay.
        stereo: "keep", or "strip" for a molecule without @, / and \ marks.

    Returns:
        its canonical SMILES.

    Raises:
        Rejected: `empty`, `too_long`, `not_smiles`, `unphysical` (RDKit's reason in the detail), `wildcard_atom`,
            `not_cxsmiles` or `not_one_structure`.

    >>> standardise("OC(=O)c1ccccc1.[Na+]")
    'O=C(O)c1ccccc1'
    """
    record = standardise_with_record(text, largest_fragment=largest_fragment, neutralise=neutralise, stereo=stereo)
    return record.smiles


def standardise_with_record(
    text: str, *, largest_fragment: bool = True, neutralise: bool = True, stereo: str = "keep"
) -> Standardised:
    """Standardise a molecule as `standardise` does, and record what it lost.

    Args:
        text: a SMILES or a CXSMILES.
        largest_fragment: as of `standardise`.
        neutralise: likewise.
        stereo: likewise.

    Raises:
        Rejected: see `standardise`.

    >>> standardise_with_record("C[C@H](N)C#N.Cl |&1:1|")
    Standardised(smiles='CC(N)C#N', dropped=['Cl'], unmarked_centres=1)
    """
    unmarked_centres = 0
    if "|" in text:
        with rdBase.BlockLogs():
            text, unmarked_centres = resolve_extension(_require_text(text))
    mol = parse_smiles(text)
    edited, dropped = False, list[str]()
    if ":" in text:
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
        edited = True
    if largest_fragment and "." in text:
        mol, dropped = choose_fragment(mol)
        edited = True
    if neutralise and _CHARGE.search(text):
        mol, edited = uncharge(mol), True
    if stereo == "strip" and any(mark in text for mark in "@/\\"):
        Chem.RemoveStereochemistry(mol)
        edited = True
    smiles: str = Chem.MolToSmiles(mol)
    if edited:  # perception runs on reading only: an edited molecule is canonical after one more turn
        smiles = Chem.MolToSmiles(parse_smiles(smiles))
    return Standardised(smiles, dropped, unmarked_centres)


def randomise_smiles(smiles: str, n: int, seed: int) -> list[str]:
    """Write a molecule as `n` randomised SMILES, each from a random atom along a random path; some may be the same.

    The first k do not depend on n.

    Args:
        smiles: of the molecule.
        n: how many.
        seed: any number.
    """
    rdkit_seed = 1 + seed % (2**31 - 1)  # RDKit takes 0 for no seed
    return list(Chem.MolToRandomSmilesVect(parse_smiles(smiles), n, rdkit_seed))


def is_molecule(text: str) -> bool:
    """Tell whether a text is a molecule of two atoms or more, and so hardly a name or a heading by chance."""
    try:
        return bool(parse_smiles(text).GetNumAtoms() > 1)
    except Rejected:
        return False


@contextmanager
def silence_rdkit() -> Iterator[None]:
    """Keep RDKit from printing what it cannot parse: here that becomes the reason of a rejection."""
    with rdBase.BlockLogs():
        yield


def parse_smiles(text: str, *, silence: bool = True) -> Chem.Mol:
    """Parse a SMILES; an empty string, which RDKit takes for a molecule without atoms, is refused.

    Args:
        text: a SMILES or a CXSMILES, see `molvae.chemistry.cxsmiles`; a name may stand behind an extension.
        silence: False for callers within `silence_rdkit`, which is a third faster for many molecules.

    Raises:
        Rejected: see `standardise`.
    """
    with rdBase.BlockLogs() if silence else nullcontext():
        text = _require_text(text)
        if "|" in text:
            text, _ = resolve_extension(text)
        mol = Chem.MolFromSmiles(text)
        if mol is None:
            raise _explain_rejection(text)
    if mol.GetNumAtoms() == 0:
        raise Rejected("empty")
    if ("*" in text or "#0" in text) and any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        raise Rejected("wildcard_atom", "* stands for no element")
    return mol


def _require_text(text: str) -> str:
    """Remove white space at the ends of a text; refuse one that is no SMILES, of which RDKit would read a part."""
    text = text.strip().strip(INVISIBLE)
    if not text:
        raise Rejected("empty")
    if len(text) > MAX_CHARACTERS:
        raise Rejected("too_long", f"{len(text)} characters")
    smiles, *rest = text.split(maxsplit=1)
    if rest and not rest[0].startswith("|"):
        raise Rejected("not_smiles", f"text behind the SMILES: {rest[0][:40]!r}")
    if not (smiles.isascii() and smiles.isprintable()):
        character = next(c for c in smiles if not (c.isascii() and c.isprintable()))
        raise Rejected("not_smiles", f"it holds {character!r} (U+{ord(character):04X}), which no SMILES has")
    return text


def _explain_rejection(text: str) -> Rejected:
    """Why RDKit refuses a string: its grammar or its chemistry."""
    mol = Chem.MolFromSmiles(text, sanitize=False)
    if mol is None:
        return Rejected("not_smiles", "RDKit cannot parse it")
    problems = Chem.DetectChemistryProblems(mol)
    return Rejected("unphysical", "; ".join(problem.Message() for problem in problems[:3]))
