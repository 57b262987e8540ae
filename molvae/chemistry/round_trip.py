"""Round-trip consistency: a string of SELFIES decoded to a molecule and encoded again is the same string.

Every string of SELFIES decodes, so that "valid" tells nothing of a model. But each molecule has one string that the
training data would hold, that of its canonical SMILES; a model that generates another one has made a mistake, like one
that generates an invalid SMILES. Rejecting such strings samples the model conditioned on round-trip consistency, the
analogue of discarding invalid SMILES in the published metrics.
Source: Skinnider 2024 (doi:10.1038/s42256-024-00821-x) on why that makes better molecules.
"""

from __future__ import annotations

from collections.abc import Sequence

from molvae.chemistry.descriptors import to_canonical_smiles
from molvae.chemistry.selfies_codec import Constraints, decode_selfies, encode_smiles
from molvae.chemistry.standardise import parse_smiles
from molvae.errors import Rejected


def reencode(canonical: str) -> list[str]:
    """Encode a canonical SMILES; no symbols where it is empty, or SELFIES cannot write it."""
    try:
        return encode_smiles(canonical) if canonical else []
    except Rejected:
        return []


def is_round_trip(symbols: Sequence[str], constraints: Constraints) -> bool:
    """Tell whether a string is the one of the canonical SMILES of the molecule that it decodes to."""
    return compute_round_trip_smiles(symbols, constraints) != ""


def compute_round_trip_smiles(symbols: Sequence[str], constraints: Constraints) -> str:
    """Compute the canonical SMILES of the molecule that a string stands for; "" if it fails the round trip."""
    try:
        canonical = to_canonical_smiles(parse_smiles(decode_selfies(symbols, constraints)))
    except Rejected:
        return ""
    return canonical if reencode(canonical) == list(symbols) else ""


def check_round_trips(task: tuple[Sequence[Sequence[str]], Constraints]) -> list[bool]:
    """Tell of each of many strings under the same constraints whether it is round-trip consistent."""
    strings, constraints = task
    return [is_round_trip(symbols, constraints) for symbols in strings]


def reject_string(task: tuple[Sequence[Sequence[str]], Constraints], rejection: Rejected) -> list[bool]:
    """Tell that a string whose molecule ends the process is not round-trip consistent."""
    return [False]
