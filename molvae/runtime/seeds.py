"""One seed of the user, many independent streams: randomness is a function of (seed, purpose, index) only."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *parts: str | int) -> int:
    """Derive a 63-bit seed for the stream named by `parts`, far from all others."""
    name = repr((seed, *parts)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def make_generator(seed: int, *parts: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator at the start of that stream."""
    import torch  # for which those that only derive seeds need not wait

    return torch.Generator(device).manual_seed(derive_seed(seed, *parts))
