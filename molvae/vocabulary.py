"""Tokens and their ids. Four ids are special and distinct; the rest stand for SELFIES symbols, in sorted order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from molvae.errors import ModelFileError

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Vocabulary:
    """The tokens a model knows and the chemistry they are read with.

    Attributes:
        symbols: SELFIES symbols; symbol k has id len(SPECIAL) + k.
        caps: bonding caps, element and charge -> most bonds (see `molvae.chemistry.symbols`).
    """

    symbols: tuple[str, ...]
    caps: dict[str, int]

    @classmethod
    def build(cls, symbols: Iterable[str], caps: dict[str, int]) -> Vocabulary:
        """Vocabulary of a set of symbols, the same whatever order they come in."""
        return cls(tuple(sorted(set(symbols))), dict(sorted(caps.items())))

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.symbols)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: len(SPECIAL) + k for k, symbol in enumerate(self.symbols)}

    def ids(self, symbols: Iterable[str]) -> list[int]:
        """Ids of symbols; UNK for those the vocabulary lacks."""
        return [self._ids.get(symbol, UNK) for symbol in symbols]

    def text(self, ids: Sequence[int]) -> list[str]:
        """Symbols of ids up to the first EOS, which is left out, as PAD and BOS are."""
        ids = list(ids)
        if EOS in ids:
            ids = ids[: ids.index(EOS)]
        return [self.symbols[i - len(SPECIAL)] if i >= len(SPECIAL) else SPECIAL[i] for i in ids if i not in (PAD, BOS)]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            "format_version": FORMAT_VERSION,
            "special": list(SPECIAL),
            "symbols": list(self.symbols),
            "caps": self.caps,
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
        except (KeyError, TypeError, ValueError) as err:
            raise ModelFileError(f"{where}: this is no vocabulary of molvae ({err!r}). Featurize again.") from None
        if (
            not good
            or not all(isinstance(s, str) for s in symbols)
            or not all(isinstance(c, int) for c in caps.values())
        ):
            raise ModelFileError(f"{where}: a vocabulary of another version of molvae. Featurize again with this one.")
        return cls(symbols, caps)
