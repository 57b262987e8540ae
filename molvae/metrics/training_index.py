"""What the index of training molecules holds of each. Runs in worker processes, which should start without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from molvae.chemistry.descriptors import compute_skeleton, remove_stereo, to_canonical_smiles
from molvae.chemistry.fingerprints import compute_fingerprint
from molvae.chemistry.standardise import parse_smiles, silence_rdkit
from molvae.errors import Rejected


class IndexedMolecules(NamedTuple):
    """Of molecules: canonical SMILES, that without stereo marks, InChIKey skeleton; fingerprints of some of them.

    What RDKit cannot read has "" in place of each, and no fingerprint. Skeletons that are not asked for are "".
    """

    canonical: list[str]
    without_stereo: list[str]
    skeletons: list[str]
    fingerprints: list[bytes]


IndexTask = tuple[Sequence[tuple[str, bool]], bool]


def index_molecules(task: IndexTask) -> IndexedMolecules:
    """Index pairs of a SMILES and whether its fingerprint is needed, with skeletons or without."""
    pairs, with_skeletons = task
    index = IndexedMolecules([], [], [], [])
    with silence_rdkit():
        for smiles, needs_fingerprint in pairs:
            try:
                mol = parse_smiles(smiles, silence=False)
            except Rejected:
                for column in (index.canonical, index.without_stereo, index.skeletons):
                    column.append("")
                continue
            canonical = to_canonical_smiles(mol)
            index.canonical.append(canonical)
            index.without_stereo.append(remove_stereo(canonical))
            index.skeletons.append(compute_skeleton(mol, canonical) if with_skeletons else "")
            if needs_fingerprint:
                index.fingerprints.append(compute_fingerprint(mol))
    return index


def reject_molecule(task: IndexTask, rejection: Rejected) -> IndexedMolecules:
    """Index a molecule that ends its process as one that RDKit cannot read."""
    return IndexedMolecules([""], [""], [""], [])
