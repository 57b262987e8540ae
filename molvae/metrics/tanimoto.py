"""Tanimoto similarities of bit fingerprints, many against many, in blocks: memory does not grow with their number.

The common bits of all pairs are a product of two 0/1 matrices. On a CPU it is taken of 8-bit integers that hold two
bits each, 1 and 64: in a sum of products (a + 64 b)(64 c + d) the common bits ac + bd stand at 64, and stay apart from
their neighbours as long as no sum reaches 64. Where both fingerprints have as many bits, they are taken one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROWS, COLUMNS = 1024, 2048  # of a block: its 8 MB of counts stay in the caches
DIGIT = 6  # bits of a digit


class _Block:
    """Some fingerprints of a set, those with few bits first: their places in it, and what products take."""

    def __init__(self, places: np.ndarray, packed: np.ndarray, sizes: np.ndarray, device: str) -> None:
        self.places, self.packed, self.device = places, packed, device
        self.most = sizes[-1]
        self.sizes = torch.from_numpy(sizes).to(device)

    @cached_property
    def single(self) -> Tensor:
        """(rows, bits) int8, a bit each."""
        return torch.from_numpy(np.unpackbits(self.packed, axis=1).view(np.int8)).to(self.device)

    @cached_property
    def left(self) -> Tensor:
        """(rows, bits / 2) int8, two bits each, for the left side of a product."""
        first, second = self._unpack_halves()
        return torch.from_numpy(first + (second << DIGIT)).to(self.device)

    @cached_property
    def right(self) -> Tensor:
        """The same for the right side."""
        first, second = self._unpack_halves()
        return torch.from_numpy((first << DIGIT) + second).to(self.device)

    def _unpack_halves(self) -> list[np.ndarray]:
        return [np.unpackbits(half, axis=1).view(np.int8) for half in np.split(self.packed, 2, axis=1)]


def compute_similarity(a: bytes, b: bytes) -> float:
    """Compute the similarity of two fingerprints, bits packed; 1 where neither has a bit."""
    first, second = np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)
    common, either = np.bitwise_count(first & second).sum(), np.bitwise_count(first | second).sum()
    return float(common / either) if either else 1.0


def compute_nearest_similarity(fingerprints: np.ndarray, references: np.ndarray, *, device: str = "cpu") -> np.ndarray:
    """Compute the similarity of each fingerprint to the most similar reference.

    Args:
        fingerprints: (n, bytes) uint8, bits packed as by `numpy.packbits`.
        references: (m, bytes), m at least 1.
        device: to compute on.

    Returns:
        (n,) float32; two fingerprints without any bit are alike (1).
    """
    best = np.zeros(len(fingerprints), dtype=np.float32)
    blocks = list(_iter_blocks(fingerprints, ROWS, device))
    for columns in _iter_blocks(references, COLUMNS, device):
        # among references with the same number of bits the one with most common bits is the nearest
        values, lengths = torch.unique_consecutive(columns.sizes, return_counts=True)
        for rows in blocks:
            groups = _count_common_bits(rows, columns).split(lengths.tolist(), 1)
            most = torch.stack([group.amax(1) for group in groups], 1)
            similarity = _compute_ratio(most, rows.sizes, values).amax(1).cpu().numpy()
            best[rows.places] = np.maximum(best[rows.places], similarity)
    return best


def compute_nearest_other_similarity(fingerprints: np.ndarray, *, device: str = "cpu") -> np.ndarray:
    """Compute the similarity of each fingerprint, (n,), to the most similar other one; 0 where there is none."""
    best = np.zeros(len(fingerprints), dtype=np.float32)
    blocks = list(_iter_blocks(fingerprints, ROWS, device))
    for rows in blocks:
        for columns in blocks:
            pairs = _compute_ratio(_count_common_bits(rows, columns), rows.sizes, columns.sizes)
            if rows is columns:
                pairs.fill_diagonal_(0)
            best[rows.places] = np.maximum(best[rows.places], pairs.amax(1).cpu().numpy())
    return best


class MeanSimilarities(NamedTuple):
    """Of each of n fingerprints: means over all of them, itself among them, each as often as it occurs."""

    similarity: np.ndarray  # (n,) of T
    square: np.ndarray  # (n,) of T²
    scaled_square: np.ndarray  # (n,) of T_ij² / r_j with r_j the root of the mean square of j, estimated on 1000


def compute_mean_similarities(fingerprints: np.ndarray, counts: np.ndarray, *, device: str = "cpu") -> MeanSimilarities:
    """Compute mean similarities of each fingerprint to all of them; each pair is computed once.

    Args:
        fingerprints: (n, bytes) uint8, bits packed.
        counts: (n,) how often each occurs.
        device: to compute on.
    """
    weights = (counts / counts.sum()).astype(np.float32)
    both = np.stack([weights, weights / _estimate_root_mean_squares(fingerprints, weights, device)])
    sums = np.zeros((3, len(fingerprints)))
    blocks = list(_iter_blocks(fingerprints, ROWS, device))
    for number, rows in enumerate(blocks):
        for columns in blocks[number:]:
            pairs = _compute_ratio(_count_common_bits(rows, columns), rows.sizes, columns.sizes)
            squares = pairs**2
            row_weights, column_weights = (
                torch.from_numpy(both[:, block.places]).to(device) for block in (rows, columns)
            )
            parts = [pairs @ column_weights[0], squares @ column_weights[0], squares @ column_weights[1]]
            sums[:, rows.places] += torch.stack(parts).cpu().numpy()
            if rows is not columns:
                parts = [row_weights[0] @ pairs, row_weights[0] @ squares, row_weights[1] @ squares]
                sums[:, columns.places] += torch.stack(parts).cpu().numpy()
    return MeanSimilarities(*sums)


def _estimate_root_mean_squares(fingerprints: np.ndarray, weights: np.ndarray, device: str) -> np.ndarray:
    """(n,) roots of the mean squared similarity to 1000 of them, which are taken evenly by their weight."""
    chosen = np.searchsorted(np.cumsum(weights), (np.arange(1000) + 0.5) / 1000).clip(max=len(weights) - 1)
    roots = np.empty(len(fingerprints), dtype=np.float32)
    for columns in _iter_blocks(fingerprints[chosen], len(chosen), device):
        for rows in _iter_blocks(fingerprints, ROWS, device):
            pairs = _compute_ratio(_count_common_bits(rows, columns), rows.sizes, columns.sizes)
            roots[rows.places] = (pairs**2).mean(1).sqrt().cpu().numpy()
    return roots.clip(min=1e-3)


def _iter_blocks(packed: np.ndarray, length: int, device: str) -> Iterator[_Block]:
    """Iterate over fingerprints in blocks, those with few bits first."""
    sizes = np.bitwise_count(packed).sum(1, dtype=np.float32)
    order = np.argsort(sizes, kind="stable")
    for start in range(0, len(order), length):
        places = order[start : start + length]
        yield _Block(places, packed[places], sizes[places], device)


def _compute_ratio(common: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    common = common.float()
    return (common / (rows[:, None] + columns - common)).nan_to_num_(nan=1.0)


def _count_common_bits(rows: _Block, columns: _Block) -> Tensor:
    """Numbers of common bits, (rows, columns): exact in each of these ways."""
    if rows.device != "cpu":
        return rows.single.half() @ columns.single.half().T
    if min(rows.most, columns.most) >= 1 << DIGIT:
        return torch._int_mm(rows.single, columns.single.T)
    digits = torch._int_mm(rows.left, columns.right.T)
    return digits.bitwise_right_shift_(DIGIT).bitwise_and_((1 << DIGIT) - 1)
