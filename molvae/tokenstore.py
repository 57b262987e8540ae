"""The token store on disk: one safetensors file, written as a stream and read in one piece.

Tensors: `ids` (all tokens, uint8 or uint16), `offsets` (molecules + 1, int64), `split` (molecules, uint8: position
in the list that the file's metadata hold under "splits").
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from molvae.errors import DataError
from molvae.files import replacing

if TYPE_CHECKING:
    from molvae.dataset import TokenSet


class TokenStoreWriter:
    """Writes molecules as they come; their number and that of their tokens must be known before.

    The safetensors library writes only what is whole in memory; the format itself is a header and raw bytes.
    """

    def __init__(self, path: Path, vocabulary_size: int, molecules: int, tokens: int, splits: Sequence[str]) -> None:
        self.dtype = np.uint8 if vocabulary_size <= 256 else np.uint16
        self.splits = {name: code for code, name in enumerate(splits)}
        self.path, self.molecules, self.tokens = path, molecules, tokens
        self.written_molecules = self.written_tokens = 0

    def __enter__(self) -> TokenStoreWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self.file = stack.enter_context(open(temporary, "wb"))
            self._write_header()
            self.stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._put("offsets", self.written_molecules, np.array([self.written_tokens], np.int64))
            if (self.written_molecules, self.written_tokens) != (self.molecules, self.tokens):
                error = DataError(
                    f"{self.path}: {self.written_molecules} molecules written, {self.molecules} announced."
                )
                kind = DataError
        self.stack.__exit__(kind, error, trace)
        if isinstance(error, DataError) and trace is None:
            raise error

    def write(self, ids: np.ndarray, lengths: np.ndarray, splits: Sequence[str]) -> None:
        """Add molecules: their ids one behind the other, the length of each, the split of each."""
        starts = self.written_tokens + np.cumsum(lengths, dtype=np.int64) - lengths
        self._put("ids", self.written_tokens, ids.astype(self.dtype))
        self._put("offsets", self.written_molecules, starts.astype(np.int64))
        self._put("split", self.written_molecules, np.array([self.splits[name] for name in splits], np.uint8))
        self.written_tokens += len(ids)
        self.written_molecules += len(lengths)

    def _write_header(self) -> None:
        header: dict[str, object] = {"__metadata__": {"splits": json.dumps(list(self.splits))}}
        self.start, at = {}, 0
        sizes = {
            "offsets": (np.int64, "I64", self.molecules + 1),
            "ids": (self.dtype, "U8" if self.dtype is np.uint8 else "U16", self.tokens),
            "split": (np.uint8, "U8", self.molecules),
        }
        for name, (dtype, code, count) in sizes.items():
            end = at + count * np.dtype(dtype).itemsize
            header[name] = {"dtype": code, "shape": [count], "data_offsets": [at, end]}
            self.start[name], at = at, end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.file.write(struct.pack("<Q", len(text)) + text)
        self.data = 8 + len(text)
        self.file.truncate(self.data + at)

    def _put(self, name: str, index: int, values: np.ndarray) -> None:
        self.file.seek(self.data + self.start[name] + index * values.itemsize, os.SEEK_SET)
        self.file.write(values.tobytes())


def read_tokens(path: Path) -> dict[str, TokenSet]:
    """The molecules of a token store, split by split.

    Raises:
        DataError: no such file, damaged, or not a token store.
    """
    try:
        with safe_open(path, "np") as file:
            names = json.loads(file.metadata()["splits"])
            ids, offsets, split = (file.get_tensor(name) for name in ("ids", "offsets", "split"))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as err:
        raise DataError(f"{path}: no token store ({err}). Run featurize again.") from err
    from molvae.dataset import TokenSet  # brings torch, for which workers that only write need not wait

    everything = TokenSet(ids, offsets)
    return {name: everything.select(np.flatnonzero(split == code)) for code, name in enumerate(names)}
