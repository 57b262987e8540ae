"""The token store on disk: one safetensors file, written as a stream and read in one piece.

Tensors: `ids` (all tokens, uint8 or uint16), `offsets` (molecules + 1, int64), `split` (molecules, uint16: position
in the list that the file's metadata hold under "splits"). Where the training molecules have variants, `variant_ids`
and `variant_offsets` (variants + 1) hold these in the same way; they are no molecules of their own and in no split.
Where the molecules have properties, `properties` (molecules × properties, float32, NaN where unknown) holds these, and
the metadata, under "properties", their names.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from molvae.errors import DataError
from molvae.runtime.files import replacing

if TYPE_CHECKING:
    from molvae.data.dataset import TokenSet


HEADER_BYTES = 4096


class TokenStoreWriter:
    """Writes molecules as they come, then variants; their numbers must be known before, those of tokens need not.

    The safetensors library writes only what is whole in memory; the format itself is a header and raw bytes. The
    tokens stand last, and the header, for which there is room at the start, is written when their number is known.

    Attributes:
        written: values of each tensor that were written so far, by its name.
    """

    def __init__(
        self,
        path: Path,
        vocabulary_size: int,
        molecules: int,
        splits: Sequence[str],
        variants: int = 0,
        properties: Sequence[str] = (),
    ) -> None:
        self.dtype = np.uint8 if vocabulary_size <= 256 else np.uint16
        self.splits = {name: code for code, name in enumerate(splits)}
        self.path, self.molecules, self.variants, self.properties = path, molecules, variants, list(properties)
        self.written: Counter[str] = Counter()

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
            for prefix, what, announced in (("", "molecules", self.molecules), ("variant_", "variants", self.variants)):
                written = self.written[f"{prefix}offsets"]
                if written != announced:
                    kind, error = DataError, DataError(f"{self.path}: {written} {what} written, {announced} announced.")
                elif announced or not prefix:  # without variants there is no tensor for them
                    self._put(f"{prefix}offsets", np.array([self.written[f"{prefix}ids"]]))
            self._write_header()
        self.stack.__exit__(kind, error, trace)
        if isinstance(error, DataError) and trace is None:
            raise error

    def write(
        self, ids: np.ndarray, lengths: np.ndarray, splits: Sequence[str], values: np.ndarray | None = None
    ) -> None:
        """Add molecules: their ids one behind the other, the length, the split, and the properties, (n, P), of each."""
        if self.properties:
            self._put("properties", values.reshape(len(lengths) * len(self.properties)))
        self._put("split", np.array([self.splits[name] for name in splits]))
        self._put_all("", ids, lengths)

    def write_variants(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Add variants of training molecules likewise, once all molecules are written: their tokens stand behind."""
        self._put_all("variant_", ids, lengths)

    def _layout(self) -> dict[str, tuple[np.dtype, int, int]]:
        """Type, first byte behind the header, and last byte of each tensor, the widest type first, the tokens last."""
        layout, at = {}, 0
        for name, kind, count in (
            ("offsets", np.int64, self.molecules + 1),
            ("variant_offsets", np.int64, self.variants + 1 if self.variants else 0),
            ("properties", np.float32, self.molecules * len(self.properties)),
            ("split", np.uint16, self.molecules),
            ("ids", self.dtype, self.written["ids"]),
            ("variant_ids", self.dtype, self.written["variant_ids"]),
        ):
            dtype, start = np.dtype(kind), at
            at += count * dtype.itemsize
            layout[name] = (dtype, start, at)
        return layout

    def _write_header(self) -> None:
        metadata = {"splits": json.dumps(list(self.splits))}
        if self.properties:
            metadata["properties"] = json.dumps(self.properties)
        header: dict[str, object] = {"__metadata__": metadata}
        for name, (dtype, start, end) in self._layout().items():
            if name.startswith("variant_") and not self.variants or name == "properties" and not self.properties:
                continue
            code = {"i": "I", "u": "U", "f": "F"}[dtype.kind] + str(8 * dtype.itemsize)
            shape = (
                [self.molecules, len(self.properties)] if name == "properties" else [(end - start) // dtype.itemsize]
            )
            header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        if len(text) > HEADER_BYTES:
            raise DataError(
                f"{self.path}: the names of {len(self.splits)} splits are too long. Use fewer or shorter ones."
            )
        self.file.seek(0)
        self.file.write(struct.pack("<Q", HEADER_BYTES) + text.ljust(HEADER_BYTES))

    def _put_all(self, prefix: str, ids: np.ndarray, lengths: np.ndarray) -> None:
        starts = self.written[f"{prefix}ids"] + np.cumsum(lengths, dtype=np.int64) - lengths
        self._put(f"{prefix}offsets", starts)
        self._put(f"{prefix}ids", ids)

    def _put(self, name: str, values: np.ndarray) -> None:
        """Write the next values of a tensor."""
        dtype, start, _ = self._layout()[name]
        self.file.seek(8 + HEADER_BYTES + start + self.written[name] * dtype.itemsize)
        self.file.write(values.astype(dtype).tobytes())
        self.written[name] += len(values)


def read_tokens(path: Path) -> dict[str, TokenSet]:
    """The molecules of a token store, split by split.

    Raises:
        DataError: no such file, damaged, or not a token store.
    """
    with _opened(path) as (file, names):
        ids, offsets, split = (file.get_tensor(name) for name in ("ids", "offsets", "split"))
        values = file.get_tensor("properties") if "properties" in file.metadata() else None
    from molvae.data.dataset import TokenSet  # brings torch, for which workers that only write need not wait

    everything = TokenSet(ids, offsets, values)
    return {name: everything.select(np.flatnonzero(split == code)) for code, name in enumerate(names)}


def read_properties(path: Path) -> list[str]:
    """Names of the molecules' properties, in the order of their values.

    Raises:
        DataError: as `read_tokens`.
    """
    with _opened(path) as (file, _):
        return json.loads(file.metadata().get("properties", "[]"))


def read_variants(path: Path) -> TokenSet | None:
    """The variants of the training molecules, or None if the store holds none.

    Of k variants a molecule, rows i * k to i * k + k - 1 are those of molecule i of the split `train`.

    Raises:
        DataError: as `read_tokens`.
    """
    with _opened(path) as (file, _):
        if "variant_ids" not in file.keys():  # noqa: SIM118
            return None
        ids, offsets = (file.get_tensor(name) for name in ("variant_ids", "variant_offsets"))
    from molvae.data.dataset import TokenSet

    return TokenSet(ids, offsets)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, list[str]]]:
    """The safetensors file of a token store, and the names of its splits."""
    try:
        with safe_open(path, "np") as file:
            yield file, json.loads(file.metadata()["splits"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as err:
        raise DataError(f"{path}: no token store ({err}). Run featurize again.") from err
