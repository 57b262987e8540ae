"""Molecules to the tokens of a trained model, read as its training data were."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from molvae.chemistry.standardise import STANDARDISE_SETTINGS, standardise
from molvae.data.bpe import MergeEncoder
from molvae.data.dataset import TokenSet
from molvae.data.tokenizer import tokenize_molecule
from molvae.data.vocabulary import UNK, Vocabulary
from molvae.errors import MolvaeError, Rejected

log = logging.getLogger(__name__)
MISSING_VALUES = {"None", "nan", "<NA>", "NaT"}  # what pandas puts where a table has nothing


class MoleculeTokenizer:
    """Standardises and tokenizes molecules by the rules and the vocabulary of a model."""

    def __init__(self, vocabulary: Vocabulary, featurize_settings: Mapping[str, Any]) -> None:
        """Take the vocabulary of a model, and those of the settings of its `featurize` that are there."""
        self.vocabulary = vocabulary
        self._rules = {name: featurize_settings[name] for name in STANDARDISE_SETTINGS if name in featurize_settings}

    def standardise(self, text: str) -> str:
        """Convert a molecule to canonical SMILES, standardised as the training data were."""
        return standardise(text, **self._rules)

    def require_known(self, smiles: str) -> str:
        """Convert a molecule to canonical SMILES; one that the model cannot read is an error."""
        try:
            self._encode(smiles)
        except Rejected as rejection:
            raise MolvaeError(f"{smiles!r}: {rejection}") from None
        return self.standardise(smiles)

    def tokenize(self, smiles: Sequence[str | None], rows: Sequence[int] | None) -> tuple[np.ndarray, TokenSet]:
        """Tokenize the molecules that the model can read; see `molvae.api.Model.tokenize`."""
        places, strings = [], []
        for place, text in enumerate(smiles):
            try:
                strings.append(self._encode(text))
                places.append(place)
            except Rejected as rejection:
                log.warning("row %d, %r: %s", place + 1 if rows is None else rows[place], text, rejection)
        return np.array(places, dtype=np.int64), self._merge(TokenSet.from_lists(strings))

    def _merge(self, tokens: TokenSet) -> TokenSet:
        """Molecules in single symbols, in the tokens of this model."""
        if not self.vocabulary.merges or not len(tokens):
            return tokens
        ids, lengths = MergeEncoder(self.vocabulary).apply(tokens.ids, tokens.lengths)
        return TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]))

    def _encode(self, text: str | None) -> list[int]:
        """Ids of the single symbols of a SMILES.

        Raises:
            Rejected: it is missing or no molecule, SELFIES cannot write it, or the vocabulary lacks symbols of it.
        """
        if not isinstance(text, str):
            if str(text) in MISSING_VALUES:
                raise Rejected("empty")
            raise Rejected("not_smiles", f"it is a {type(text).__name__}, no text")
        symbols = tokenize_molecule(self.standardise(text))
        ids = self.vocabulary.encode(symbols)
        if UNK in ids:
            unknown = sorted({symbol for symbol, i in zip(symbols, ids, strict=True) if i == UNK})
            raise Rejected("unknown_symbol", f"the model does not know {', '.join(unknown)}")
        return ids
