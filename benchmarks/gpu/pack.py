"""Pack a `tokens/` folder into one compressed file that a machine with numpy and nothing else of ours can read.

Runs where molvae is installed. Arrays of the .npz: `ids` (all tokens, split by split), `lengths` (of each molecule),
`augmentation_ids` and `augmentation_lengths` where the folder has augmentations, and `about`: JSON with the splits in
order and their numbers of molecules, the vocabulary, the default settings and the commit.

With --symbols the same molecules in the same splits, as many pairs merged, as symbols of SMILES, or of SELFIES without
brackets: the controls that show what the symbols change.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

sys.path.insert(0, str(Path(__file__).parents[2]))

from molvae.config import ModelSettings, PriorSettings, SampleSettings, TrainSettings
from molvae.data import bpe
from molvae.data.dataset import TokenSet
from molvae.data.token_store import TOKENS_FILE, VOCABULARY_FILE, TokenStore
from molvae.data.tokenizer import ids_to_selfies
from molvae.data.vocabulary import UNK, Vocabulary
from molvae.model_io.card import get_max_tokens
from molvae.runtime.files import read_json
from molvae.runtime.provenance import get_git_commit
from molvae.stages.featurize import MAX_MERGE_MOLECULES

SECTIONS = {"model": ModelSettings, "train": TrainSettings, "prior": PriorSettings, "sample": SampleSettings}
SMILES_SYMBOL = re.compile(r"\[[^]]*\]|Br|Cl|%\d\d|.")  # an atom, a ring's number, a bond or a branch
BLOCK_MOLECULES = 100_000  # molecules merged together


def pack(folder: Path, out: Path, symbols: str | None = None) -> None:
    """Pack a folder into the file `out`, and print what is in it.

    Args:
        folder: that `featurize` wrote.
        out: file to write.
        symbols: "smiles" or "selfies" in place of those of the folder.
    """
    store = TokenStore.open(folder / TOKENS_FILE)
    splits, augmentations = store.splits, store.augmentations
    vocabulary = Vocabulary.from_json(read_json(folder / VOCABULARY_FILE), str(folder))
    if symbols:
        strings = read_smiles_symbols(folder) if symbols == "smiles" else read_selfies_symbols(splits, vocabulary)
        splits, vocabulary = tokenize_strings(strings, vocabulary)
        augmentations = None
    parts = list(splits.values())
    arrays = {"ids": np.concatenate([part.ids for part in parts]), "lengths": _concat_lengths(parts)}
    if augmentations is not None:
        lengths = _concat_lengths([augmentations])
        arrays |= {"augmentation_ids": augmentations.ids, "augmentation_lengths": lengths}
    defaults = {name: kind().model_dump() for name, kind in SECTIONS.items()}
    defaults["sample"]["max_tokens"] = get_max_tokens({})
    content: dict[str, Any] = {
        "splits": {name: len(part) for name, part in splits.items()},
        "vocabulary": vocabulary.to_json(),
        "defaults": defaults,
        "commit": get_git_commit(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "wb") as file:  # given a name, numpy would add its own suffix
        np.savez_compressed(file, about=np.frombuffer(json.dumps(content).encode(), np.uint8), **arrays)
    bits = 8 * out.stat().st_size / max(1, len(arrays["ids"]))
    print(f"{out}: {out.stat().st_size / 2**20:.2f} MiB, {content['splits']}, {bits:.2f} bits a token")


def _concat_lengths(parts: list[TokenSet]) -> np.ndarray:
    return np.concatenate([part.lengths for part in parts]).astype(np.uint16)


def read_smiles_symbols(folder: Path) -> dict[str, list[list[str]]]:
    """Read the symbols of the SMILES of each split's molecules."""
    table = pyarrow.parquet.read_table(folder / "molecules.parquet", columns=["smiles", "split"]).to_pydict()
    strings: dict[str, list[list[str]]] = {}
    for smiles, split in zip(table["smiles"], table["split"], strict=True):
        strings.setdefault(split, []).append(SMILES_SYMBOL.findall(smiles))
    return strings


def read_selfies_symbols(splits: dict[str, TokenSet], vocabulary: Vocabulary) -> dict[str, list[list[str]]]:
    """Read the symbols of the SELFIES, without brackets, of each split's molecules that have no unknown symbol."""
    return {
        name: [ids_to_selfies(vocabulary, part[row]) for row in range(len(part)) if UNK not in part[row]]
        for name, part in splits.items()
    }


def tokenize_strings(
    strings: dict[str, list[list[str]]], original: Vocabulary
) -> tuple[dict[str, TokenSet], Vocabulary]:
    """Tokenize the strings of each split; those with a symbol that no training molecule has are left out.

    Args:
        strings: symbols of each string, by split.
        original: a vocabulary; the new one has its bond constraints and as many merges.
    """
    training = strings["train"]
    vocabulary = Vocabulary.build((symbol for string in training for symbol in string), original.constraints)
    first = _flatten(training[:MAX_MERGE_MOLECULES], vocabulary)
    vocabulary = replace(vocabulary, merges=bpe.learn_merges(*first, vocabulary, len(original.merges)))
    known, encoder, splits = set(vocabulary.symbols), bpe.MergeEncoder(vocabulary), {}
    for name, of_split in sorted(strings.items()):
        readable = [string for string in of_split if known.issuperset(string)]
        starts = range(0, len(readable), BLOCK_MOLECULES)
        blocks = [encoder.apply(*_flatten(readable[at : at + BLOCK_MOLECULES], vocabulary)) for at in starts]
        ids, lengths = (np.concatenate(column) for column in zip(*blocks, strict=True))
        splits[name] = TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]))
    return splits, vocabulary


def _flatten(strings: list[list[str]], vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array(vocabulary.encode(symbol for string in strings for symbol in string), np.uint16)
    return ids, np.array([len(string) for string in strings])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens", type=Path, help="folder that `molvae featurize` wrote")
    parser.add_argument("out", type=Path, help="the file to write, .npz")
    parser.add_argument("--symbols", choices=["smiles", "selfies"], help="in place of those of the folder")
    arguments = parser.parse_args()
    pack(arguments.tokens, arguments.out, arguments.symbols)


if __name__ == "__main__":
    main()
