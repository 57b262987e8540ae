"""A `tokens/` folder as one compressed file that a machine with numpy and nothing else of ours can read.

Runs where molvae is installed. Arrays of the .npz: `ids` (all tokens, split by split), `lengths` (of each molecule),
`variant_ids` and `variant_lengths` where the folder has variants, and `about`: JSON with the splits in order and their
numbers of molecules, the vocabulary, the default settings and the commit.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from molvae.config import ModelSettings, PriorSettings, SampleSettings, TrainSettings
from molvae.files import read_json
from molvae.lineage import git_commit
from molvae.tokenstore import read_tokens, read_variants

SECTIONS = {"model": ModelSettings, "train": TrainSettings, "prior": PriorSettings, "sample": SampleSettings}


def pack(folder: Path, out: Path) -> None:
    """Pack the folder into the file `out` and print what is in it."""
    splits, variants = (read(folder / "tokens.safetensors") for read in (read_tokens, read_variants))
    parts = list(splits.values())
    arrays = {"ids": np.concatenate([part.ids for part in parts]), "lengths": _lengths(parts)}
    if variants is not None:
        arrays |= {"variant_ids": variants.ids, "variant_lengths": _lengths([variants])}
    about = {
        "splits": {name: len(part) for name, part in splits.items()},
        "vocabulary": read_json(folder / "vocabulary.json"),
        "defaults": {name: kind().model_dump() for name, kind in SECTIONS.items()},
        "commit": git_commit(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "wb") as file:  # given a name, numpy would add its own suffix
        np.savez_compressed(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    bits = 8 * out.stat().st_size / max(1, len(arrays["ids"]))
    print(f"{out}: {out.stat().st_size / 2**20:.2f} MiB, {about['splits']}, {bits:.2f} bits a token")


def _lengths(parts: list) -> np.ndarray:
    return np.concatenate([part.lengths for part in parts]).astype(np.uint16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens", type=Path, help="folder that `molvae featurize` wrote")
    parser.add_argument("out", type=Path, help="the file to write, .npz")
    arguments = parser.parse_args()
    pack(arguments.tokens, arguments.out)


if __name__ == "__main__":
    main()
