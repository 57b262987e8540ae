"""A `tokens/` folder as one compressed file that a machine with numpy and nothing else of ours can read.

Runs where molvae is installed. Arrays of the .npz: `ids` (all tokens, split by split), `lengths` (of each molecule),
`variant_ids` and `variant_lengths` where the folder has variants, and `about`: JSON with the splits in order and their
numbers of molecules, the vocabulary, the default settings and the commit.

With --symbols the same molecules in the same splits, as many pairs merged, as symbols of SMILES, or of SELFIES without
brackets: the controls that tell what the symbols do.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet

sys.path.insert(0, str(Path(__file__).parents[2]))

from molvae.chemistry.tokenization import selfies_of
from molvae.config import ModelSettings, PriorSettings, SampleSettings, TrainSettings
from molvae.data import bpe
from molvae.data.dataset import TokenSet
from molvae.data.token_store import read_tokens, read_variants
from molvae.data.vocabulary import UNK, Vocabulary
from molvae.runtime.files import read_json
from molvae.runtime.provenance import git_commit
from molvae.stages.featurize import MERGES_LEARN_FROM

SECTIONS = {"model": ModelSettings, "train": TrainSettings, "prior": PriorSettings, "sample": SampleSettings}
SMILES_SYMBOL = re.compile(r"\[[^]]*\]|Br|Cl|%\d\d|.")  # an atom, a ring's number, a bond or a branch
AT_ONCE = 100_000  # molecules merged together


def pack(folder: Path, out: Path, symbols: str | None = None) -> None:
    """Pack the folder into the file `out`, with other `symbols` if wanted, and print what is in it."""
    splits, variants = (read(folder / "tokens.safetensors") for read in (read_tokens, read_variants))
    vocabulary = Vocabulary.from_json(read_json(folder / "vocabulary.json"), str(folder))
    if symbols:
        strings = as_smiles(folder) if symbols == "smiles" else as_selfies(splits, vocabulary)
        splits, vocabulary = tokenised(strings, vocabulary)
        variants = None
    parts = list(splits.values())
    arrays = {"ids": np.concatenate([part.ids for part in parts]), "lengths": _lengths(parts)}
    if variants is not None:
        arrays |= {"variant_ids": variants.ids, "variant_lengths": _lengths([variants])}
    about = {
        "splits": {name: len(part) for name, part in splits.items()},
        "vocabulary": vocabulary.to_json(),
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


def as_smiles(folder: Path) -> dict[str, list[list[str]]]:
    """Symbols of the SMILES of each split's molecules."""
    table = pyarrow.parquet.read_table(folder / "molecules.parquet", columns=["smiles", "split"]).to_pydict()
    strings: dict[str, list[list[str]]] = {}
    for smiles, split in zip(table["smiles"], table["split"], strict=True):
        strings.setdefault(split, []).append(SMILES_SYMBOL.findall(smiles))
    return strings


def as_selfies(splits: dict[str, TokenSet], vocabulary: Vocabulary) -> dict[str, list[list[str]]]:
    """Symbols of the SELFIES of each split's molecules, without brackets; unknown ones cannot be said."""
    return {
        name: [selfies_of(vocabulary, part[row]) for row in range(len(part)) if UNK not in part[row]]
        for name, part in splits.items()
    }


def tokenised(strings: dict[str, list[list[str]]], like: Vocabulary) -> tuple[dict[str, TokenSet], Vocabulary]:
    """The strings of each split as tokens; those with a symbol that no training molecule has are left out.

    The vocabulary has the caps of another and as many merges.
    """
    training = strings["train"]
    vocabulary = Vocabulary.build((symbol for string in training for symbol in string), like.caps)
    learned = bpe.learn(*_flat(training[:MERGES_LEARN_FROM], vocabulary), vocabulary, len(like.merges))
    vocabulary = replace(vocabulary, merges=learned)
    known, merge, splits = set(vocabulary.symbols), bpe.Merger(vocabulary).apply, {}
    for name, every in sorted(strings.items()):
        own = [string for string in every if known.issuperset(string)]
        blocks = [merge(*_flat(own[at : at + AT_ONCE], vocabulary)) for at in range(0, len(own), AT_ONCE)]
        ids, lengths = (np.concatenate(column) for column in zip(*blocks, strict=True))
        splits[name] = TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]))
    return splits, vocabulary


def _flat(strings: list[list[str]], vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array(vocabulary.ids(symbol for string in strings for symbol in string), np.uint16)
    return ids, np.array([len(string) for string in strings])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens", type=Path, help="folder that `molvae featurize` wrote")
    parser.add_argument("out", type=Path, help="the file to write, .npz")
    parser.add_argument("--symbols", choices=["smiles", "selfies"], help="other ones than those of the folder")
    arguments = parser.parse_args()
    pack(arguments.tokens, arguments.out, arguments.symbols)


if __name__ == "__main__":
    main()
