"""Our side of a comparison, through the calls that a run of the product makes.

All that knows the package's inner names is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch

from molvae.api import Model
from molvae.config import DataSettings, FeaturizeSettings, ModelSettings, TrainSettings
from molvae.data.dataset import TokenSet
from molvae.data.readers import read_rows
from molvae.data.token_store import read_tokens
from molvae.data.vocabulary import EOS, PAD, Vocabulary
from molvae.inference.sampling import sample_prior
from molvae.nn.vae import untrained
from molvae.runtime.files import read_json
from molvae.stages.featurize import featurize, featurize_block
from molvae.stages.fetch import fetch
from molvae.training.trainer import Run, evaluate

EXAMPLE = Path(__file__).parent.parent / "data/moses-small.csv.gz"
MERGES = FeaturizeSettings().merges
MOSES_SIZES = ModelSettings(embedding_dim=32, latent_dim=128, encoder_hidden=256, decoder_hidden=512, decoder_layers=3)
# ^ those of the MOSES VAE's own defaults; its embedding is as wide as its vocabulary, about 32


@dataclass(frozen=True)
class Tokens:
    """What `featurize` wrote: molecules of each split as tokens and, in the same order, as SMILES."""

    splits: dict[str, TokenSet]
    smiles: dict[str, list[str]]
    vocabulary: Vocabulary


def featurized(source: Path, folder: Path, merges: int = MERGES, workers: int = 2) -> Tokens:
    """Featurise a file into `folder`; a second time, with other merges, what both have in common is there already."""
    dataset, block, tokens = folder / "rows.parquet", folder / "block.parquet", folder / f"tokens{merges}"
    settings = FeaturizeSettings(merges=merges)
    folder.mkdir(parents=True, exist_ok=True)
    if not block.exists():
        fetch(DataSettings(source=str(source)), dataset)
        featurize_block(dataset, settings, block, workers=workers)
    featurize([block], settings, tokens)
    return read(tokens)


def example(rows: int, folder: Path) -> Path:
    """The first so many training molecules of the shipped example set as a file of their own."""
    path = folder / "molecules.smi"
    path.write_text("\n".join(row.smiles for row, _ in zip(read_rows(EXAMPLE, "SMILES"), range(rows), strict=False)))
    return path


def read(folder: Path) -> Tokens:
    """A folder that `featurize` wrote."""
    table = parquet.read_table(folder / "molecules.parquet", columns=["smiles", "split"]).to_pydict()
    smiles: dict[str, list[str]] = {}
    for one, split in zip(table["smiles"], table["split"], strict=True):
        smiles.setdefault(split, []).append(one)
    file = folder / "vocabulary.json"
    return Tokens(read_tokens(folder / "tokens.safetensors"), smiles, Vocabulary.from_json(read_json(file), str(file)))


def new_run(tokens: Tokens, model: ModelSettings, train: TrainSettings, rows: np.ndarray | None = None) -> Run:
    """A training run with new weights on all training molecules, or on those of `rows`."""
    molecules = tokens.splits["train"] if rows is None else tokens.splits["train"].select(rows)
    network = untrained(len(tokens.vocabulary), model, train.seed)
    return Run(network, molecules, tokens.splits["valid"], train, torch.device("cpu"))


def step(run: Run, rows: np.ndarray) -> None:
    """One update on some of the run's molecules."""
    run.step(rows)
    run.progress.step += 1


def held_out(run: Run) -> None:
    """What a run measures at the end of each epoch."""
    evaluate(run.model, run.valid, run.settings, run.device)


def token_strings(run: Run, count: int, max_tokens: int, threads: int) -> np.ndarray:
    """Token ids of samples from the prior, (count, T)."""
    return sample_prior(run.model, 0, count, seed=0, temperature=1.0, max_tokens=max_tokens, threads=threads).ids


def token_lengths(ids: np.ndarray) -> np.ndarray:
    """Tokens of each string, its end not counted."""
    return ((ids != PAD) & (ids != EOS)).sum(1)


def smiles_strings(
    run: Run, vocabulary: Vocabulary, count: int, max_tokens: int, threads: int, attempts: int = 1
) -> Sequence[str]:
    """SMILES of samples from the prior, as `molvae.load(...).sample` gives them."""
    model = Model(run.model, vocabulary, {})
    return model.sample(count, seed=0, max_tokens=max_tokens, threads=threads, attempts=attempts)
