"""Molecules as flat token ids with offsets, and batches of molecules of like length.

Shapes: B batch, T predicted tokens including EOS. Everything is time-major, (T, B), as the RNN kernels want it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from molvae.seeds import derive
from molvae.vocabulary import BOS, EOS, PAD

POOL = 50  # batches that are sorted by length together: padding stays under 5 % and batches stay random


@dataclass(frozen=True)
class Batch:
    """Padded molecules of one step.

    Attributes:
        inputs: (T, B) int64 ids, BOS first, then the molecule, then PAD.
        targets: (T, B) int64 ids, the molecule, then EOS, then PAD.
        lengths: (B,) int64 tokens of each molecule, EOS not counted.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    lengths: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in (self.inputs, self.targets, self.lengths)))

    def __len__(self) -> int:
        return len(self.lengths)


class TokenSet:
    """Tokenised molecules: `ids[offsets[i]:offsets[i + 1]]` is molecule i, without special tokens."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray) -> None:
        self.ids, self.offsets = ids, offsets
        self.lengths = np.diff(offsets)

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
        return TokenSet(self.ids[flat], offsets)

    def batch(self, rows: np.ndarray) -> Batch:
        """The molecules of `rows` as one padded batch."""
        lengths = self.lengths[rows]
        steps = np.arange(lengths.max(initial=0))
        inside = steps[:, None] < lengths
        flat = np.where(inside, self.offsets[rows] + steps[:, None], 0)
        body = np.where(inside, self.ids[flat] if len(self.ids) else PAD, PAD).astype(np.int64)  # (T - 1, B)
        inputs = np.concatenate([np.full((1, len(rows)), BOS), body])
        targets = np.concatenate([body, np.full((1, len(rows)), PAD)])
        targets[lengths, np.arange(len(rows))] = EOS
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(lengths.astype(np.int64)))

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
