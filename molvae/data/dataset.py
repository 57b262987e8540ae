"""Molecules as flat token ids with offsets, and batches of molecules of like length.

Shapes: B batch, T predicted tokens including EOS. Everything is time-major, (T, B), as the RNN kernels want it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from molvae.data.vocabulary import BOS, EOS, PAD
from molvae.runtime.seeds import derive

POOL = 50  # batches that are sorted by length together: padding stays under 5 % and batches stay random


@dataclass(frozen=True)
class Batch:
    """Padded molecules of one step.

    Attributes:
        inputs: (T, B) int64 ids, BOS first, then the molecule, then PAD.
        targets: (T, B) int64 ids, the molecule, then EOS, then PAD.
        lengths: (B,) int64 tokens of each molecule, EOS not counted.
        values: (B, P) properties, NaN where unknown; None: the molecules have none.
        source: the batch that the encoder reads instead, the same molecules in another spelling; None: this one.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    lengths: torch.Tensor
    values: torch.Tensor | None = None
    source: Batch | None = None

    @property
    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the encoder reads: ids without BOS, (T', B), and their lengths."""
        batch = self.source or self
        return batch.inputs[1:], batch.lengths

    def __len__(self) -> int:
        return len(self.lengths)


class TokenSet:
    """Tokenised molecules: `ids[offsets[i]:offsets[i + 1]]` is molecule i, without special tokens.

    Row i of `values`, (molecules, P) float32, has its properties, NaN where unknown; None: there are none.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, values: np.ndarray | None = None) -> None:
        self.ids, self.offsets, self.values = ids, offsets, values
        self.lengths = np.diff(offsets)
        self._resident: dict[torch.device, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @classmethod
    def of(cls, molecules: list[list[int]]) -> TokenSet:
        """A set made from lists of ids."""
        lengths = [len(molecule) for molecule in molecules]
        ids = np.array([i for molecule in molecules for i in molecule], dtype=np.uint16)
        return cls(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def select(self, rows: np.ndarray) -> TokenSet:
        """The molecules of `rows`, in that order, as a set of their own."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return TokenSet(self.ids[flat], offsets, None if self.values is None else self.values[rows])

    def joined(self, other: TokenSet) -> TokenSet:
        """The tokens of both, these first."""
        return TokenSet(
            np.concatenate([self.ids, other.ids]), np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]])
        )

    def batch(self, rows: np.ndarray, device: torch.device = torch.device("cpu")) -> Batch:
        """The molecules of `rows` as one padded batch on a device, where all tokens then stay."""
        ids, offsets, values = self._on(device)
        picked = torch.as_tensor(rows, dtype=torch.int64).to(device, non_blocking=True)
        starts, lengths = offsets[picked], offsets[picked + 1] - offsets[picked]
        steps = torch.arange(int(self.lengths[rows].max(initial=0)), device=device)[:, None]  # known without the device
        inside = steps < lengths
        flat = (starts + steps).clamp_(max=max(len(ids) - 1, 0))
        body = torch.where(inside, ids[flat].long() if len(ids) else PAD, PAD)  # (T - 1, B)
        edge = torch.full((1, len(picked)), PAD, device=device)
        inputs = torch.cat([edge + (BOS - PAD), body])
        targets = torch.cat([body, edge]).scatter_(0, lengths[None], EOS)
        return Batch(inputs, targets, lengths, None if values is None else values[picked])

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """All ids (in a byte each where the vocabulary allows), offsets and properties, on a device."""
        if device not in self._resident:
            ids = self.ids if self.ids.dtype == np.uint8 else self.ids.astype(np.int16)  # torch cannot index uint16
            values = None if self.values is None else torch.from_numpy(self.values).to(device)
            self._resident[device] = torch.from_numpy(ids).to(device), torch.from_numpy(self.offsets).to(device), values
        return self._resident[device]

    def epoch(self, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
        """Rows of each batch of an epoch: random, of like length, a function of (seed, epoch) only."""
        random = np.random.default_rng(derive(seed, "batches", epoch))
        order = random.permutation(len(self))
        batches = []
        for start in range(0, len(order), batch_size * POOL):
            pool = order[start : start + batch_size * POOL]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
        return [batches[k] for k in random.permutation(len(batches))]

    def in_order(self, batch_size: int) -> Iterator[np.ndarray]:
        """Rows of batches for a pass that learns nothing: by length, so that padding is least."""
        order = np.argsort(self.lengths, kind="stable")
        yield from (order[at : at + batch_size] for at in range(0, len(order), batch_size))
