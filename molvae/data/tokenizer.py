"""From SMILES to the tokens of the vocabulary and back, by way of SELFIES with brackets in place of its numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from molvae.chemistry.descriptors import to_canonical_smiles
from molvae.chemistry.selfies_codec import build_constraints, decode_selfies, encode_smiles
from molvae.chemistry.standardise import parse_smiles
from molvae.chemistry.tokenization import detokenize, tokenize
from molvae.data.vocabulary import Vocabulary
from molvae.errors import Rejected

# SELFIES writes another molecule only where atoms that are not aromatic have an aromatic bond, rings have numbers of
# two digits, or RDKit normalises phosphorus or a halogen on reading. None of 300 000 molecules of ZINC and ChEMBL is
# another one; of 22 000 mutated ones 49 are, all of these kinds. Others are not checked: it takes as long as writing.
UNSAFE = re.compile(r"[:%Pp]|(Cl|Br|I)\(")


def tokenize_smiles(smiles: str) -> list[str]:
    """Write a SMILES as tokens, before any of them are merged.

    Args:
        smiles: the tokens follow its atom order; the canonical one gives the canonical string.

    Raises:
        Rejected: `not_selfies`: SELFIES cannot write the molecule.
    """
    return tokenize(encode_smiles(smiles))


def tokenize_molecule(smiles: str) -> list[str]:
    """Write a molecule as tokens that stand for it: decoded they give the same molecule.

    Args:
        smiles: canonical.

    Raises:
        Rejected: `not_selfies`: SELFIES cannot write the molecule, or writes another.

    >>> tokenize_molecule("CC=O")
    ['[C]', '[C]', '[=O]']
    """
    tokens = tokenize_smiles(smiles)
    if not UNSAFE.search(smiles):
        return tokens
    symbols = detokenize(tokens)
    decoded = decode_selfies(symbols, build_constraints(symbols))
    with suppress(Rejected):
        decoded = to_canonical_smiles(parse_smiles(decoded))
    if decoded != smiles:
        raise Rejected("not_selfies", f"SELFIES writes {decoded} in its place")
    return tokens


def ids_to_selfies(vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    """Convert token ids to SELFIES symbols, up to the first EOS."""
    return detokenize(vocabulary.decode(ids))
