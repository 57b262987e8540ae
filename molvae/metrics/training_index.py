"""What the index of training molecules holds of each. Runs in worker processes, which should start without torch."""

from __future__ import annotations

from collections.abc import Sequence

from rdkit import rdBase

from molvae.chemistry.descriptors import canonical, fingerprint, skeleton, without_stereo
from molvae.chemistry.standardise import Rejected, read


def describe_training(
    task: tuple[Sequence[str], Sequence[bool]],
) -> tuple[list[str], list[str], list[str], list[bytes]]:
    """Of SMILES: canonical, without stereo marks, skeleton; and the fingerprints of those asked for.

    What RDKit cannot read has "" in place of each, and no fingerprint.
    """
    forms: list[str] = []
    flat: list[str] = []
    skeletons: list[str] = []
    fingerprints: list[bytes] = []
    silence = rdBase.BlockLogs()
    for smiles, is_wanted in zip(*task, strict=True):
        try:
            mol = read(smiles)
        except Rejected:
            for column in (forms, flat, skeletons):
                column.append("")
            continue
        forms.append(canonical(mol))
        flat.append(without_stereo(forms[-1]))
        skeletons.append(skeleton(mol, forms[-1]))
        if is_wanted:
            fingerprints.append(fingerprint(mol))
    del silence
    return forms, flat, skeletons, fingerprints
