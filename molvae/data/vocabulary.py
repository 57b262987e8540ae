"""Tokens and their ids: four distinct special ones, then the symbols of the data, sorted, then merged tokens.

Symbols are those of `molvae.chemistry.tokenization`: SELFIES, with brackets in place of its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from molvae.errors import ModelFileError

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
FORMAT_VERSION = 3
MAX_SYMBOLS = 4096  # of a molecule, and so of a merged token
MAX_MERGED_SYMBOLS = 10_000_000  # that all tokens together stand for; 8192 merges of molecules have less than a million
MAX_TOKENS = MAX_SYMBOLS + 1  # of a string, its end counted


@dataclass(frozen=True)
class Vocabulary:
    """The tokens a model knows and the chemistry they are read with.

    Attributes:
        symbols: of SELFIES with brackets; symbol k has id len(SPECIAL) + k.
        constraints: bond constraints, element and charge -> most bonds (see `molvae.chemistry.selfies_codec`).
        merges: pairs of earlier ids that make up a merged token each (see `molvae.data.bpe`).
    """

    symbols: tuple[str, ...]
    constraints: dict[str, int]
    merges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def build(cls, symbols: Iterable[str], constraints: dict[str, int]) -> Vocabulary:
        """Build the vocabulary of a set of symbols, the same whatever order they come in."""
        return cls(tuple(sorted(set(symbols))), dict(sorted(constraints.items())))

    def extend(self, symbols: Iterable[str], constraints: dict[str, int]) -> Vocabulary:
        """Build a vocabulary with more symbols behind those of this one; ids of merged tokens move up by their number.

        Args:
            symbols: those that are known already are left out.
            constraints: of the new symbols. Where this vocabulary has a constraint it keeps it: strings that it stands
                for would else become other molecules.
        """
        new = sorted(set(symbols) - set(self.symbols))
        n_singles = len(SPECIAL) + len(self.symbols)
        merges = tuple((a + len(new) * (a >= n_singles), b + len(new) * (b >= n_singles)) for a, b in self.merges)
        return Vocabulary((*self.symbols, *new), dict(sorted({**constraints, **self.constraints}.items())), merges)

    def map_ids_from(self, base: Vocabulary, where: str) -> list[int]:
        """Find the id here of each id of the vocabulary that this one extends.

        Args:
            base: that vocabulary.
            where: names the file of this one in an error.

        Raises:
            ModelFileError: this is no extension of `base`.
        """
        if base.extend(self.symbols[len(base.symbols) :], self.constraints) != self:
            raise ModelFileError(
                f"{where}: does not begin with the symbols, merges and bond constraints of the model to fine-tune. "
                "Featurize again with the same finetune.model."
            )
        n_singles = len(SPECIAL) + len(base.symbols)
        return [*range(n_singles), *range(len(self) - len(self.merges), len(self))]

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.symbols) + len(self.merges)

    @cached_property
    def expansions(self) -> list[tuple[int, ...]]:
        """The ids of single symbols that each id stands for; a special id or a symbol stands for itself."""
        expansions: list[tuple[int, ...]] = [(k,) for k in range(len(SPECIAL) + len(self.symbols))]
        for left, right in self.merges:
            expansions.append(expansions[left] + expansions[right])
        return expansions

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: len(SPECIAL) + k for k, symbol in enumerate(self.symbols)}

    def encode(self, symbols: Iterable[str]) -> list[int]:
        """Convert single symbols to ids, nothing merged; UNK for those the vocabulary lacks.

        >>> Vocabulary.build(["[O]", "[C]"], {}).encode(["[C]", "[O]", "[Xe]"])
        [4, 5, 3]
        """
        return [self._ids.get(symbol, UNK) for symbol in symbols]

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Convert ids to symbols up to the first EOS, which is left out, as PAD and BOS are."""
        ids = list(ids)
        if EOS in ids:
            ids = ids[: ids.index(EOS)]
        texts = SPECIAL + self.symbols
        return [texts[k] for i in ids if i not in (PAD, BOS) for k in self.expansions[i]]

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values, for a file."""
        return {
            "format_version": FORMAT_VERSION,
            "special": list(SPECIAL),
            "symbols": list(self.symbols),
            "constraints": self.constraints,
            "merges": [list(pair) for pair in self.merges],
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> Vocabulary:
        """Read a vocabulary from a file's content.

        Args:
            content: what `to_json` makes.
            where: names the file in an error.

        Raises:
            ModelFileError: the content is no vocabulary, or one of another format.
        """
        try:
            version, special = content["format_version"], tuple(content["special"])
        except (KeyError, TypeError) as err:
            raise _make_vocabulary_error(where, err) from None
        other_version = f"{where}: a vocabulary of another version of molvae. Featurize again with this one."
        if version != FORMAT_VERSION or special != SPECIAL:
            raise ModelFileError(other_version)
        try:
            symbols, constraints = tuple(content["symbols"]), dict(content["constraints"])
            merges = tuple((left, right) for left, right in content["merges"])
        except (KeyError, TypeError, ValueError) as err:
            raise _make_vocabulary_error(where, err) from None
        if (
            not all(isinstance(symbol, str) for symbol in symbols)
            or not all(type(most) is int and most >= 0 for most in constraints.values())  # True is an int, too
            or len(set(symbols)) != len(symbols)
            or not _are_valid_merges(merges, len(SPECIAL) + len(symbols))
        ):
            raise ModelFileError(other_version)
        return cls(symbols, constraints, merges)


def _make_vocabulary_error(where: str, err: Exception) -> ModelFileError:
    return ModelFileError(f"{where}: this is no vocabulary of molvae ({err!r}). Featurize again.")


def _are_valid_merges(merges: Iterable[tuple[Any, Any]], n_singles: int) -> bool:
    """Whether each pair names tokens that were there before it, none of them special."""
    allowed = range(len(SPECIAL), n_singles)
    lengths = [1] * n_singles  # in symbols: merges that double, or many long ones, would take all memory
    for pair in merges:
        if not all(type(k) is int and k in allowed for k in pair):
            return False
        lengths.append(sum(lengths[k] for k in pair))
        if lengths[-1] > MAX_SYMBOLS:
            return False
        allowed = range(len(SPECIAL), allowed.stop + 1)
    return sum(lengths) <= MAX_MERGED_SYMBOLS
