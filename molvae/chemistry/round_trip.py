"""Whether a string of symbols says what it means: decoded to a molecule and encoded again it is the same string.

Every string of SELFIES decodes, so that "valid" tells nothing of a model. But each molecule has one string that the
training data would hold, that of its canonical SMILES; a model that writes another one has made a mistake, as one that
writes an invalid SMILES has. To leave such strings out is to draw from what the model says of strings that can be,
and what drops invalid SMILES from the published figures.
Source: Skinnider 2024 (doi:10.1038/s42256-024-00821-x) on why that makes better molecules.
"""

from __future__ import annotations

from collections.abc import Sequence

from molvae.chemistry.descriptors import canonical
from molvae.chemistry.selfies_codec import Caps, decode, encode
from molvae.chemistry.standardise import Rejected, parse


def encoded_again(canonical: str) -> list[str]:
    """Symbols of a canonical SMILES; none where there is no molecule, or SELFIES cannot write it."""
    try:
        return encode(canonical) if canonical else []
    except Rejected:
        return []


def is_stable(symbols: Sequence[str], caps: Caps) -> bool:
    """Whether the string of a molecule's canonical SMILES is the one that the molecule was decoded from."""
    return stable_form(symbols, caps) != ""


def stable_form(symbols: Sequence[str], caps: Caps) -> str:
    """Canonical SMILES of the molecule that a stable string stands for; "" for a string that is not stable."""
    try:
        form = canonical(parse(decode(symbols, caps)))
    except Rejected:
        return ""
    return form if encoded_again(form) == list(symbols) else ""


def are_stable(task: tuple[Sequence[Sequence[str]], Caps]) -> list[bool]:
    """The same for many strings under the same caps."""
    strings, caps = task
    return [is_stable(symbols, caps) for symbols in strings]
