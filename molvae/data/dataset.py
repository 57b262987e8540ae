"""Molecules as flat token ids with offsets, and batches of molecules of like length.

Shapes: B batch, T predicted tokens including EOS, P properties. Everything is time-major, (T, B), as the RNN kernels
want it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from molvae.data.vocabulary import BOS, EOS, PAD
from molvae.runtime.seeds import derive_seed

BUCKET_BATCHES = 50  # batches sorted by length together: padding stays under 5 % and batches stay random


@dataclass(frozen=True)
class Batch:
    """Padded molecules of one step.

    Attributes:
        inputs: (T, B) int64 ids, BOS first, then the molecule, then PAD.
        targets: (T, B) int64 ids, the molecule, then EOS, then PAD.
        lengths: (B,) int64 tokens of each molecule, EOS not counted.
        properties: (B, P), NaN where unknown; None: the molecules have none.
        encoder_batch: what the encoder reads instead, the same molecules as randomised SMILES; None: this one.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    lengths: torch.Tensor
    properties: torch.Tensor | None = None
    encoder_batch: Batch | None = None

    @property
    def encoder_inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the encoder reads: ids without BOS, (T', B), and their lengths, (B,)."""
        batch = self.encoder_batch or self
        return batch.inputs[1:], batch.lengths

    def __len__(self) -> int:
        return len(self.lengths)


class TokenSet:
    """Tokenised molecules: `ids[offsets[i]:offsets[i + 1]]` is molecule i, without special tokens.

    Row i of `properties`, (molecules, P) float32, has its properties, NaN where unknown; None: there are none.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, properties: np.ndarray | None = None) -> None:
        self.ids, self.offsets, self.properties = ids, offsets, properties
        self.lengths: np.ndarray = np.diff(offsets)
        self._resident: dict[torch.device, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @classmethod
    def from_lists(cls, molecules: list[list[int]]) -> TokenSet:
        """Make a set from lists of ids."""
        lengths = [len(molecule) for molecule in molecules]
        ids = np.array([i for molecule in molecules for i in molecule], dtype=np.uint16)
        return cls(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def select(self, rows: np.ndarray) -> TokenSet:
        """Make a set of the molecules of `rows`, in that order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return TokenSet(self.ids[flat], offsets, None if self.properties is None else self.properties[rows])

    def concat(self, other: TokenSet) -> TokenSet:
        """Make a set of the tokens of both, these first."""
        return TokenSet(
            np.concatenate([self.ids, other.ids]), np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]])
        )

    def collate(self, rows: np.ndarray, device: torch.device = torch.device("cpu")) -> Batch:
        """Make one padded batch of the molecules of `rows`, on a device, where all tokens then stay."""
        ids, offsets, properties = self._move_to(device)
        index = torch.as_tensor(rows, dtype=torch.int64).to(device, non_blocking=True)
        starts, lengths = offsets[index], offsets[index + 1] - offsets[index]
        steps = torch.arange(int(self.lengths[rows].max(initial=0)), device=device)[:, None]  # known without the device
        is_inside = steps < lengths
        flat = (starts + steps).clamp_(max=max(len(ids) - 1, 0))
        body = torch.where(is_inside, ids[flat].long() if len(ids) else PAD, PAD)  # (T - 1, B)
        edge = torch.full((1, len(index)), PAD, device=device)
        inputs = torch.cat([edge + (BOS - PAD), body])
        targets = torch.cat([body, edge]).scatter_(0, lengths[None], EOS)
        return Batch(inputs, targets, lengths, None if properties is None else properties[index])

    def _move_to(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """All ids (in a byte each where the vocabulary allows), offsets and properties, on a device."""
        if device not in self._resident:
            ids = self.ids if self.ids.dtype == np.uint8 else self.ids.astype(np.int16)  # torch cannot index uint16
            properties = None if self.properties is None else torch.from_numpy(self.properties).to(device)
            offsets = torch.from_numpy(self.offsets).to(device)
            self._resident[device] = torch.from_numpy(ids).to(device), offsets, properties
        return self._resident[device]

    def shuffle_batches(self, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
        """Draw the rows of each batch of an epoch: random, of like length, a function of (seed, epoch) only."""
        random = np.random.default_rng(derive_seed(seed, "batches", epoch))
        order = random.permutation(len(self))
        batches = []
        for start in range(0, len(order), batch_size * BUCKET_BATCHES):
            bucket = order[start : start + batch_size * BUCKET_BATCHES]
            bucket = bucket[np.argsort(self.lengths[bucket], kind="stable")]
            batches += [bucket[at : at + batch_size] for at in range(0, len(bucket), batch_size)]
        return [batches[k] for k in random.permutation(len(batches))]

    def iter_by_length(self, batch_size: int) -> Iterator[np.ndarray]:
        """Yield the rows of batches by length, so that padding is least: for a pass that learns nothing."""
        order = np.argsort(self.lengths, kind="stable")
        yield from (order[at : at + batch_size] for at in range(0, len(order), batch_size))
