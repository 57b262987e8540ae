"""What a figure would be without learning, and what it could be at best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from molvae.dataset import TokenSet
from molvae.encoding import posterior_draws
from molvae.sampling import sample_at, sample_prior
from molvae.seeds import derive
from molvae.vae import VAE, untrained
from molvae.vocabulary import SPECIAL, Vocabulary

if TYPE_CHECKING:
    from molvae.config import ModelSettings


def random_tokens(vocabulary: Vocabulary, lengths: np.ndarray, n: int, seed: int) -> list[list[str]]:
    """`n` strings of tokens drawn evenly from the vocabulary, their lengths drawn from `lengths`: the null."""
    random = np.random.default_rng(derive(seed, "random tokens"))
    drawn = random.choice(lengths, n)
    ids = random.integers(len(SPECIAL), len(vocabulary), drawn.sum())
    return [vocabulary.text(part) for part in np.split(ids, np.cumsum(drawn)[:-1])]


def untrained_model(
    vocabulary: Vocabulary, settings: ModelSettings, n: int, seed: int, max_tokens: int, threads: int
) -> list[list[str]]:
    """`n` strings from the same networks before the first step of training."""
    model = untrained(len(vocabulary), settings, seed).eval()
    strings = sample_prior(model, 0, n, seed=seed, temperature=1.0, max_tokens=max_tokens, threads=threads)
    return [vocabulary.text(ids) for ids in strings.ids.tolist()]


def aggregate_posterior(
    model: VAE,
    train: TokenSet,
    vocabulary: Vocabulary,
    n: int,
    *,
    seed: int,
    temperature: float,
    max_tokens: int,
    threads: int,
) -> list[list[str]]:
    """`n` strings decoded from latent points of training molecules: what a prior without any gap would sample.

    A sampled FCD above theirs is what the prior loses: the gap that a better prior can win.
    """
    points = posterior_draws(model, train, n, seed)
    strings = sample_at(model, points, seed=seed, temperature=temperature, max_tokens=max_tokens, threads=threads)
    return [vocabulary.text(ids) for ids in strings.ids.tolist()]


def training_molecules(train: TokenSet, vocabulary: Vocabulary, n: int, seed: int) -> list[list[str]]:
    """`n` training molecules (all of them where there are fewer): what a perfect memory would sample, the ceiling."""
    random = np.random.default_rng(derive(seed, "training molecules"))
    rows = random.choice(len(train), min(n, len(train)), replace=False)
    return [vocabulary.text(train[row]) for row in rows]
