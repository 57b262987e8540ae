"""The token store on disk: one safetensors file, written as a stream and read in one piece.

Tensors: `ids` (all tokens, uint8 or uint16), `offsets` (molecules + 1, int64), `split` (molecules, uint16: position
in the list that the file's metadata hold under "splits").
"""

from __future__ import annotations

import json
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


HEADER_BYTES = 4096


class TokenStoreWriter:
    """Writes molecules as they come; their number must be known before, that of their tokens need not.

    The safetensors library writes only what is whole in memory; the format itself is a header and raw bytes. The
    tokens stand last, and the header, for which there is room at the start, is written when their number is known.
    """

    def __init__(self, path: Path, vocabulary_size: int, molecules: int, splits: Sequence[str]) -> None:
        self.dtype = np.uint8 if vocabulary_size <= 256 else np.uint16
        self.splits = {name: code for code, name in enumerate(splits)}
        self.path, self.molecules = path, molecules
        self.written_molecules = self.written_tokens = 0

    def __enter__(self) -> TokenStoreWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self.file = stack.enter_context(open(temporary, "wb"))
            self.stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._put("offsets", self.written_molecules, np.array([self.written_tokens], np.int64))
            self._write_header()
            if self.written_molecules != self.molecules:
                text = f"{self.path}: {self.written_molecules} molecules written, {self.molecules} announced."
                kind, error = DataError, DataError(text)
        self.stack.__exit__(kind, error, trace)
        if isinstance(error, DataError) and trace is None:
            raise error

    def write(self, ids: np.ndarray, lengths: np.ndarray, splits: Sequence[str]) -> None:
        """Add molecules: their ids one behind the other, the length of each, the split of each."""
        starts = self.written_tokens + np.cumsum(lengths, dtype=np.int64) - lengths
        self._put("ids", self.written_tokens, ids)
        self._put("offsets", self.written_molecules, starts)
        self._put("split", self.written_molecules, np.array([self.splits[name] for name in splits]))
        self.written_tokens += len(ids)
        self.written_molecules += len(lengths)

    def _layout(self) -> dict[str, tuple[np.dtype, int, int]]:
        """Type, first byte behind the header, and last byte of each tensor, the widest type first, the tokens last."""
        layout, at = {}, 0
        for name, kind, count in (
            ("offsets", np.int64, self.molecules + 1),
            ("split", np.uint16, self.molecules),
            ("ids", self.dtype, self.written_tokens),
        ):
            dtype, start = np.dtype(kind), at
            at += count * dtype.itemsize
            layout[name] = (dtype, start, at)
        return layout

    def _write_header(self) -> None:
        header: dict[str, object] = {"__metadata__": {"splits": json.dumps(list(self.splits))}}
        for name, (dtype, start, end) in self._layout().items():
            code = {"i": "I", "u": "U"}[dtype.kind] + str(8 * dtype.itemsize)
            header[name] = {"dtype": code, "shape": [(end - start) // dtype.itemsize], "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        if len(text) > HEADER_BYTES:
            raise DataError(
                f"{self.path}: the names of {len(self.splits)} splits are too long. Use fewer or shorter ones."
            )
        self.file.seek(0)
        self.file.write(struct.pack("<Q", HEADER_BYTES) + text.ljust(HEADER_BYTES))

    def _put(self, name: str, index: int, values: np.ndarray) -> None:
        dtype, start, _ = self._layout()[name]
        self.file.seek(8 + HEADER_BYTES + start + index * dtype.itemsize)
        self.file.write(values.astype(dtype).tobytes())


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
