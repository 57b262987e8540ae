"""From SMILES to the tokens of the vocabulary and back, by way of SELFIES with brackets in place of its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from molvae.chemistry.selfies_codec import encode_smiles
from molvae.chemistry.tokenization import detokenize, tokenize
from molvae.data.vocabulary import Vocabulary


def tokenize_smiles(smiles: str) -> list[str]:
    """Write a SMILES as tokens, before any of them are merged.

    Args:
        smiles: the tokens follow its atom order; the canonical one gives the canonical string.

    Raises:
        Rejected: `not_selfies`: SELFIES cannot write the molecule.
    """
    return tokenize(encode_smiles(smiles))


def ids_to_selfies(vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    """Convert token ids to SELFIES symbols, up to the first EOS."""
    return detokenize(vocabulary.decode(ids))
