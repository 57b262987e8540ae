"""Byte-pair encoding over whole SELFIES symbols, so that a molecule is a fifth as many tokens.

Lossless: a merged token stands for the symbols it was made of, and any string of tokens still decodes.
Counting and merging are those of `tokenizers`; a symbol travels through it as one private-use character.
"""

from __future__ import annotations

import json

import numpy as np
from tokenizers import Tokenizer, models, trainers

from molvae.data.vocabulary import SPECIAL, Vocabulary

Merges = tuple[tuple[int, int], ...]
_FIRST = 0xE000  # start of Unicode's private use area: token id k of a single symbol is character _FIRST + k


def learn_merges(ids: np.ndarray, lengths: np.ndarray, vocabulary: Vocabulary, n_merges: int) -> Merges:
    """Learn the most frequent pairs of neighbouring tokens, each counted after those before it were merged.

    Args:
        ids: molecules one behind the other, in ids of single symbols.
        lengths: symbols of each molecule.
        vocabulary: the single symbols.
        n_merges: how many; fewer are learned where no pair occurs twice any more.

    Returns:
        pairs of token ids; the k-th makes the token behind the single symbols and the k merges before it.
    """
    alphabet = [chr(_FIRST + k) for k in range(len(SPECIAL) + len(vocabulary.symbols))]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + n_merges, initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.train_from_iterator(_to_words(ids, lengths), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return tuple((model["vocab"][left], model["vocab"][right]) for left, right in model["merges"])


class MergeEncoder:
    """Applies the merges of a vocabulary to molecules in ids of single symbols."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        words = ["".join(chr(_FIRST + k) for k in expansion) for expansion in vocabulary.expansions]
        pairs = [(words[left], words[right]) for left, right in vocabulary.merges]
        self.tokenizer = Tokenizer(models.BPE({word: k for k, word in enumerate(words)}, pairs))

    def apply(self, ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Merge the tokens of molecules: ids one behind the other, and the length of each."""
        molecules = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(_to_words(ids, lengths))]
        flat = np.fromiter((k for molecule in molecules for k in molecule), np.uint16)
        return flat, np.fromiter(map(len, molecules), np.int64)


def _to_words(ids: np.ndarray, lengths: np.ndarray) -> list[str]:
    text = "".join(map(chr, (ids.astype(np.int32) + _FIRST).tolist()))
    ends = np.cumsum(lengths).tolist()
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
