"""Morgan fingerprints, bits packed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

N_BITS = 1024


def compute_fingerprint(mol: Chem.Mol) -> bytes:
    """Compute the Morgan fingerprint of MOSES: radius 2, 1024 bits, packed into 128 bytes."""
    return np.packbits(load_morgan_generator(N_BITS).GetFingerprintAsNumPy(mol)).tobytes()


def unpack_fingerprints(fingerprints: Sequence[bytes]) -> np.ndarray:
    """Unpack fingerprints to (n, 1024) float32, a bit each."""
    packed = np.frombuffer(b"".join(fingerprints), np.uint8).reshape(-1, N_BITS // 8)
    return np.unpackbits(packed, axis=1).astype(np.float32)


@cache
def load_morgan_generator(bits: int) -> Any:
    """Make RDKit's generator of Morgan fingerprints of radius 2, once."""
    return rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=bits)
