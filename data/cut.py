"""Cut the shipped example set and the shipped reference statistics out of the MOSES wheel.

    pip download --no-deps molsets==0.3.1
    python data/cut.py molsets-0.3.1-py3-none-any.whl

Deterministic: it takes the molecules whose SMILES have the lowest BLAKE2b hash, in the order of the wheel's files.
"""

import gzip
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SIZES = {"train": 100_000, "test": 5_000}
HERE = Path(__file__).parent


def read_smiles(wheel: zipfile.ZipFile, split: str) -> list[str]:
    """Read the SMILES of a split, without the header."""
    text = gzip.decompress(wheel.read(f"moses/dataset/data/{split}.csv.gz")).decode()
    return text.splitlines()[1:]


def select_molecules(molecules: list[str], size: int) -> list[str]:
    """Select the `size` molecules whose SMILES have the lowest hashes, in their order."""
    hashes = [hashlib.blake2b(smiles.encode(), digest_size=8).digest() for smiles in molecules]
    limit = sorted(hashes)[size]
    return [smiles for smiles, digest in zip(molecules, hashes, strict=True) if digest < limit]


def read_statistics(wheel: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Read mean and covariance of ChemNet activations of the 176 074 test molecules, computed by the MOSES authors."""
    with np.load(io.BytesIO(wheel.read("moses/dataset/data/test_stats.npz")), allow_pickle=True) as file:
        fcd = file["stats"].item()["FCD"]  # a pickle, opened here once so that no user has to
    return {name: np.ascontiguousarray(fcd[name], dtype=np.float32) for name in ("mu", "sigma")}


def main(path: str) -> None:
    """Write both files from the wheel at `path`."""
    with zipfile.ZipFile(path) as wheel:
        selected = {split: select_molecules(read_smiles(wheel, split), size) for split, size in SIZES.items()}
        lines = [f"{smiles},{split}" for split, molecules in selected.items() for smiles in molecules]
        text = "\n".join(["SMILES,SPLIT", *lines, ""])
        (HERE / "moses-small.csv.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        about = {"about": "ChemNet statistics of the MOSES test set", "molecules": "176074", "source": "molsets 0.3.1"}
        save_file(read_statistics(wheel), HERE.parent / "molvae/metrics/moses_test.safetensors", about)


if __name__ == "__main__":
    main(sys.argv[1])
