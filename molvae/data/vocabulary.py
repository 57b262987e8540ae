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
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Vocabulary:
    """The tokens a model knows and the chemistry they are read with.

    Attributes:
        symbols: of SELFIES with brackets; symbol k has id len(SPECIAL) + k.
        caps: bonding caps, element and charge -> most bonds (see `molvae.chemistry.selfies_codec`).
        merges: pairs of earlier ids that make up a merged token each (see `molvae.data.bpe`).
    """

    symbols: tuple[str, ...]
    caps: dict[str, int]
    merges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def build(cls, symbols: Iterable[str], caps: dict[str, int]) -> Vocabulary:
        """Vocabulary of a set of symbols, the same whatever order they come in."""
        return cls(tuple(sorted(set(symbols))), dict(sorted(caps.items())))

    def extended(self, symbols: Iterable[str], caps: dict[str, int]) -> Vocabulary:
        """This vocabulary with more symbols behind its own; the ids of merged tokens move up by their number.

        Args:
            caps: of the new symbols. Where it has a cap already it keeps its own: strings that it stands for would
                else become other molecules.
        """
        new = sorted(set(symbols) - set(self.symbols))
        singles = len(SPECIAL) + len(self.symbols)
        merges = tuple(tuple(k + len(new) * (k >= singles) for k in pair) for pair in self.merges)
        return Vocabulary((*self.symbols, *new), dict(sorted({**caps, **self.caps}.items())), merges)

    def ids_of(self, start: Vocabulary, where: str) -> list[int]:
        """The id here of each id of the vocabulary that this one extends.

        Raises:
            ModelFileError: this is no extension of `start`; `where` names the file of this one.
        """
        if start.extended(self.symbols[len(start.symbols) :], self.caps) != self:
            raise ModelFileError(
                f"{where}: does not begin with the symbols, merges and bonding caps of the model to start from. "
                "Featurize again with the same start.model."
            )
        singles = len(SPECIAL) + len(start.symbols)
        return [*range(singles), *range(len(self) - len(self.merges), len(self))]

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.symbols) + len(self.merges)

    @cached_property
    def pieces(self) -> list[tuple[int, ...]]:
        """The ids of single symbols that each id stands for; a special id or a symbol stands for itself."""
        pieces: list[tuple[int, ...]] = [(k,) for k in range(len(SPECIAL) + len(self.symbols))]
        for one, other in self.merges:
            pieces.append(pieces[one] + pieces[other])
        return pieces

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: len(SPECIAL) + k for k, symbol in enumerate(self.symbols)}

    def ids(self, symbols: Iterable[str]) -> list[int]:
        """Ids of single symbols, nothing merged; UNK for those the vocabulary lacks."""
        return [self._ids.get(symbol, UNK) for symbol in symbols]

    def text(self, ids: Sequence[int]) -> list[str]:
        """Symbols of ids up to the first EOS, which is left out, as PAD and BOS are."""
        ids = list(ids)
        if EOS in ids:
            ids = ids[: ids.index(EOS)]
        known = SPECIAL + self.symbols
        return [known[k] for i in ids if i not in (PAD, BOS) for k in self.pieces[i]]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            "format_version": FORMAT_VERSION,
            "special": list(SPECIAL),
            "symbols": list(self.symbols),
            "caps": self.caps,
            "merges": [list(pair) for pair in self.merges],
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> Vocabulary:
        """The vocabulary in a file's content.

        Raises:
            ModelFileError: the content is none, or of another format; `where` names the file.
        """
        try:
            good = content["format_version"] == FORMAT_VERSION and tuple(content["special"]) == SPECIAL
            symbols, caps = tuple(content["symbols"]), dict(content["caps"])
            merges = tuple((one, other) for one, other in content["merges"])
        except (KeyError, TypeError, ValueError) as err:
            raise ModelFileError(f"{where}: this is no vocabulary of molvae ({err!r}). Featurize again.") from None
        if (
            not good
            or not all(isinstance(s, str) for s in symbols)
            or not all(isinstance(c, int) for c in caps.values())
            or len(set(symbols)) != len(symbols)
            or not _are_merges(merges, len(SPECIAL) + len(symbols))
        ):
            raise ModelFileError(f"{where}: a vocabulary of another version of molvae. Featurize again with this one.")
        return cls(symbols, caps, merges)


def _are_merges(merges: Iterable[tuple[Any, Any]], singles: int) -> bool:
    """Whether each pair names tokens that were there before it, none of them special."""
    allowed = range(len(SPECIAL), singles)
    for pair in merges:
        if not all(isinstance(k, int) and k in allowed for k in pair):
            return False
        allowed = range(len(SPECIAL), allowed.stop + 1)
    return True
