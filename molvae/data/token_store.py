"""The token store on disk: one safetensors file, written as a stream and read in one piece.

Tensors: `ids` (all tokens, uint8 or uint16), `offsets` (molecules + 1, int64), `split` (molecules, uint16: position
in the list that the file's metadata hold under "splits"). Where the training molecules have augmentations,
`augmentation_ids` and `augmentation_offsets` (augmentations + 1) hold these in the same way; they are no molecules of
their own and in no split. Where the molecules have properties, `properties` (molecules × properties, float32, NaN where
unknown) holds these, and the metadata, under "properties", their names.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from molvae.errors import DataError
from molvae.runtime.files import atomic_write

if TYPE_CHECKING:
    from molvae.data.dataset import TokenSet


HEADER_BYTES = 4096
TOKENS_FILE, VOCABULARY_FILE = "tokens.safetensors", "vocabulary.json"  # in a folder that `featurize` writes


class _TensorPlace(NamedTuple):
    """Type, first byte and end (exclusive), counted from the end of the header of a tensor."""

    dtype: np.dtype
    start: int
    end: int


class TokenStoreWriter:
    """Writes molecules as they come, then augmentations; how many there are must be known before, but not their tokens.

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
        augmentations: int = 0,
        properties: Sequence[str] = (),
    ) -> None:
        """Prepare to write a store.

        Args:
            path: file to write.
            vocabulary_size: tokens of the vocabulary, merged ones among them.
            molecules: number of molecules to come.
            splits: names of the splits.
            augmentations: number of augmentations to come.
            properties: names of the molecules' properties.
        """
        self.dtype = np.uint8 if vocabulary_size <= 256 else np.uint16
        self.splits = {name: code for code, name in enumerate(splits)}
        self.path, self.molecules, self.augmentations, self.properties = (
            path,
            molecules,
            augmentations,
            list(properties),
        )
        self.written: Counter[str] = Counter()

    def __enter__(self) -> TokenStoreWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self.path))
            self.file = stack.enter_context(open(temporary, "wb"))
            self.stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.stack.__exit__(kind, error, trace)
            return
        with self.stack:  # closes and renames the file, or removes it where this block raises
            self._finish("", "molecules", self.molecules)
            if self.augmentations:  # without augmentations there is no tensor for them
                self._finish("augmentation_", "augmentations", self.augmentations)
            self._write_header()

    def write(
        self, ids: np.ndarray, lengths: np.ndarray, splits: Sequence[str], properties: np.ndarray | None = None
    ) -> None:
        """Add molecules.

        Args:
            ids: tokens of all, one molecule behind the other.
            lengths: (n,) tokens of each.
            splits: name of the split of each.
            properties: (n, P) float; None where the store has none.
        """
        if self.properties and properties is not None:
            self._put("properties", properties.reshape(len(lengths) * len(self.properties)))
        self._put("split", np.array([self.splits[name] for name in splits]))
        self._put_strings("", ids, lengths)

    def write_augmentations(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Add augmentations of training molecules likewise, once all molecules are written: their tokens follow."""
        self._put_strings("augmentation_", ids, lengths)

    def _finish(self, prefix: str, what: str, announced: int) -> None:
        written = self.written[f"{prefix}offsets"]
        if written != announced:
            raise DataError(f"{self.path}: {written} {what} written, {announced} announced.")
        self._put(f"{prefix}offsets", np.array([self.written[f"{prefix}ids"]]))

    def _compute_layout(self) -> dict[str, _TensorPlace]:
        """Where each tensor stands, the widest type first, the tokens last."""
        layout, at = {}, 0
        for name, kind, count in (
            ("offsets", np.int64, self.molecules + 1),
            ("augmentation_offsets", np.int64, self.augmentations + 1 if self.augmentations else 0),
            ("properties", np.float32, self.molecules * len(self.properties)),
            ("split", np.uint16, self.molecules),
            ("ids", self.dtype, self.written["ids"]),
            ("augmentation_ids", self.dtype, self.written["augmentation_ids"]),
        ):
            dtype, start = np.dtype(kind), at
            at += count * dtype.itemsize
            layout[name] = _TensorPlace(dtype, start, at)
        return layout

    def _write_header(self) -> None:
        metadata = {"splits": json.dumps(list(self.splits))}
        if self.properties:
            metadata["properties"] = json.dumps(self.properties)
        header: dict[str, object] = {"__metadata__": metadata}
        for name, (dtype, start, end) in self._compute_layout().items():
            if name.startswith("augmentation_") and not self.augmentations:
                continue
            if name == "properties" and not self.properties:
                continue
            code = {"i": "I", "u": "U", "f": "F"}[dtype.kind] + str(8 * dtype.itemsize)
            count = (end - start) // dtype.itemsize
            shape = [self.molecules, len(self.properties)] if name == "properties" else [count]
            header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        if len(text) > HEADER_BYTES:
            raise DataError(
                f"{self.path}: the names of {len(self.splits)} splits are too long. Use fewer or shorter ones."
            )
        self.file.seek(0)
        self.file.write(struct.pack("<Q", HEADER_BYTES) + text.ljust(HEADER_BYTES))

    def _put_strings(self, prefix: str, ids: np.ndarray, lengths: np.ndarray) -> None:
        starts = self.written[f"{prefix}ids"] + np.cumsum(lengths, dtype=np.int64) - lengths
        self._put(f"{prefix}offsets", starts)
        self._put(f"{prefix}ids", ids)

    def _put(self, name: str, values: np.ndarray) -> None:
        """Write the next values of a tensor."""
        dtype, start, _ = self._compute_layout()[name]
        self.file.seek(8 + HEADER_BYTES + start + self.written[name] * dtype.itemsize)
        self.file.write(values.astype(dtype).tobytes())
        self.written[name] += len(values)


@dataclass(frozen=True)
class TokenStore:
    """What a token store holds.

    Attributes:
        splits: the molecules of each split, by its name.
        properties: names of the molecules' properties, in the order of their values.
        augmentations: those of the training molecules, None where there are none. Of k a molecule, rows i * k to
            i * k + k - 1 are those of molecule i of the split `train`.
    """

    splits: dict[str, TokenSet]
    properties: list[str]
    augmentations: TokenSet | None

    @classmethod
    def open(cls, path: Path) -> TokenStore:
        """Read a token store.

        Raises:
            DataError: no such file, damaged, or not a token store.
        """
        from molvae.data.dataset import TokenSet  # brings torch, for which workers that only write need not wait

        try:
            with safe_open(path, "np") as file:
                metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names, properties = json.loads(metadata["splits"]), json.loads(metadata.get("properties", "[]"))
            molecules = TokenSet(
                tensors["ids"], tensors["offsets"], tensors["properties"] if "properties" in metadata else None
            )
            split = tensors["split"]
            augmentations = None
            if "augmentation_ids" in tensors:
                augmentations = TokenSet(tensors["augmentation_ids"], tensors["augmentation_offsets"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as err:
            raise DataError(f"{path}: no token store ({err}). Run featurize again.") from err
        splits = {name: molecules.select(np.flatnonzero(split == code)) for code, name in enumerate(names)}
        return cls(splits, properties, augmentations)
