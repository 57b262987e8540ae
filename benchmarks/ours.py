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
from molvae.data.token_store import TOKENS_FILE, VOCABULARY_FILE, TokenStore
from molvae.data.vocabulary import EOS, PAD, Vocabulary
from molvae.inference.sampling import SamplingOptions, sample_prior
from molvae.nn.vae import init_vae
from molvae.runtime.files import read_json
from molvae.stages.featurize import featurize, featurize_shard
from molvae.stages.fetch import fetch
from molvae.training.evaluation import evaluate_held_out
from molvae.training.trainer import Trainer

MERGES = FeaturizeSettings().merges
MOSES_SIZES = ModelSettings(embedding_dim=32, latent_dim=128, encoder_hidden=256, decoder_hidden=512, decoder_layers=3)
# ^ those of the MOSES VAE's own defaults; its embedding is as wide as its vocabulary, about 32


@dataclass(frozen=True)
class Tokens:
    """What `featurize` wrote: molecules of each split as tokens and, in the same order, as SMILES."""

    splits: dict[str, TokenSet]
    smiles: dict[str, list[str]]
    vocabulary: Vocabulary


def featurize_file(source: Path, folder: Path, merges: int = MERGES, workers: int = 2) -> Tokens:
    """Featurise a file into `folder`; with other merges a second time, without repeating what both have in common."""
    dataset, shard, tokens = folder / "rows.parquet", folder / "shard.parquet", folder / f"tokens{merges}"
    settings = FeaturizeSettings(merges=merges)
    folder.mkdir(parents=True, exist_ok=True)
    if not shard.exists():
        fetch(DataSettings(source=str(source)), dataset)
        featurize_shard(dataset, settings, shard, workers=workers)
    featurize([shard], settings, tokens)
    return read_tokens(tokens)


def read_tokens(folder: Path) -> Tokens:
    """Read a folder that `featurize` wrote."""
    table = parquet.read_table(folder / "molecules.parquet", columns=["smiles", "split"]).to_pydict()
    smiles: dict[str, list[str]] = {}
    for text, split in zip(table["smiles"], table["split"], strict=True):
        smiles.setdefault(split, []).append(text)
    file = folder / VOCABULARY_FILE
    vocabulary = Vocabulary.from_json(read_json(file), str(file))
    return Tokens(TokenStore.open(folder / TOKENS_FILE).splits, smiles, vocabulary)


def make_trainer(tokens: Tokens, model: ModelSettings, train: TrainSettings, rows: np.ndarray | None = None) -> Trainer:
    """Make a trainer of a new network.

    Args:
        tokens: molecules.
        model: settings of the network.
        train: settings of the training.
        rows: those of the training molecules to train on; None: all.
    """
    molecules = tokens.splits["train"] if rows is None else tokens.splits["train"].select(rows)
    network = init_vae(len(tokens.vocabulary), model, train.seed)
    return Trainer(network, molecules, tokens.splits["valid"], train, torch.device("cpu"))


def update(trainer: Trainer, rows: np.ndarray) -> None:
    """Update the weights once, with these of the trainer's molecules."""
    trainer.step(rows)
    trainer.progress.step += 1


def evaluate(trainer: Trainer) -> None:
    """Evaluate on the held-out molecules, as a run does at the end of each epoch."""
    evaluate_held_out(trainer.model, trainer.valid, trainer.settings, trainer.device)


def sample_ids(trainer: Trainer, count: int, max_tokens: int, threads: int) -> np.ndarray:
    """Sample token ids of strings from the prior, (count, T)."""
    return sample_prior(trainer.model, 0, count, SamplingOptions(max_tokens=max_tokens, threads=threads)).ids


def count_tokens(ids: np.ndarray) -> np.ndarray:
    """Count the tokens of each string, its end left out."""
    return ((ids != PAD) & (ids != EOS)).sum(1)


def sample_smiles(
    trainer: Trainer, vocabulary: Vocabulary, count: int, max_tokens: int, threads: int, max_tries: int = 1
) -> Sequence[str]:
    """Sample SMILES from the prior, as `molvae.load(...).sample` does."""
    model = Model(trainer.model, vocabulary, {})
    return model.sample(count, seed=0, max_tokens=max_tokens, threads=threads, max_tries=max_tries)
