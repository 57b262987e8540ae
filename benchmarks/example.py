"""The shipped example molecules, read without torch, which worker processes need not import."""

from __future__ import annotations

from pathlib import Path

from molvae.data.readers import read_rows

EXAMPLE = Path(__file__).parent.parent / "data/moses-small.csv.gz"


def read_example(count: int | None = None, split: str = "train") -> list[str]:
    """Read the first `count` SMILES of a split of the shipped example set, or all of them."""
    smiles: list[str] = []
    for row in read_rows(EXAMPLE, "SMILES"):
        if len(smiles) == count:
            break
        if row.split == split:
            smiles.append(row.smiles)
    return smiles


def write_example(count: int, folder: Path, split: str = "train") -> Path:
    """Write the first `count` SMILES of a split of the shipped example set to a file of their own."""
    path = folder / f"{split}-molecules.smi"
    path.write_text("\n".join(read_example(count, split)))
    return path
