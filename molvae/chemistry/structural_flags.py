"""Structural flags: what a chemist would question first in a molecule, in words. A valid SMILES can have all of it."""

from __future__ import annotations

from functools import cache

from rdkit import Chem

from molvae.chemistry.alerts import Composition, SubstructureScreen

LARGE_RING_ATOMS = 8  # rings above are rare in drugs, and a known artefact of SELFIES ring tokens
RINGS = {
    "cumulated double bonds in a ring": "[R;X2](=[R])=[R]",
    "triple bond in a ring of up to 8 atoms": "[r3,r4,r5,r6,r7,r8]#[r3,r4,r5,r6,r7,r8]",
    "double bond in a three-membered ring": "[r3]=,:[r3]",
    "cyclobutadiene": "[r4]1=[r4][r4]=[r4]1",
}
VALENCES = {
    "halogen with more than one bond": "[F,Cl,Br,I;!X0;!X1;!-]",
    "sulfur with four bonds and no S=O": "[S;v4;!$(S=O)]",
    "sulfur with six bonds and no S=O": "[S;v6;!$(S=O)]",
    "nitrogen with five bonds": "[N;v5]",
    "phosphorus with five bonds and no P=O or P=S": "[P;v5;!$(P=O);!$(P=S)]",
    "chain of three heteroatoms": "[N,O;!R;+0;X2,X3][N,O;!R;+0;X2,X3][N,O;!R;+0;X2,X3]",
    "peroxide": "[OX2][OX2]",
}
PATTERNS = [*RINGS, *VALENCES]


def find_structural_flags(mol: Chem.Mol, largest_ring: int, composition: Composition) -> list[str]:
    """Find radicals, large or strained rings and unusual valences of a molecule; none in most drugs.

    Args:
        mol: the molecule.
        largest_ring: atoms in its largest ring.
        composition: of the molecule.
    """
    flags = []
    if radicals := composition.radicals:
        flags.append(f"{radicals} radical electron{'s' if radicals > 1 else ''}")
    if largest_ring > LARGE_RING_ATOMS:
        flags.append(f"{largest_ring}-membered ring")
    return flags + [PATTERNS[number] for number in _load_screen().find_matches(mol, composition)]


@cache
def _load_screen() -> SubstructureScreen:
    return SubstructureScreen([Chem.MolFromSmarts(smarts) for smarts in (RINGS | VALENCES).values()])
