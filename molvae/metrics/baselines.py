"""What a figure would be without learning, and what it could be at best."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from molvae.chemistry.tokenization import selfies_of
from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import SPECIAL, Vocabulary
from molvae.inference.posterior import some_posteriors
from molvae.inference.sampling import CHUNK, Accept, sample_at, sample_from, sample_prior
from molvae.model_io.loading import symbols_of
from molvae.nn.losses import reparameterised
from molvae.nn.vae import VAE
from molvae.runtime.seeds import derive, generator


def random_tokens(vocabulary: Vocabulary, lengths: np.ndarray, n: int, seed: int) -> list[list[str]]:
    """`n` strings of tokens drawn evenly from the vocabulary, their lengths drawn from `lengths`: the null."""
    random = np.random.default_rng(derive(seed, "random tokens"))
    drawn = random.choice(lengths, n)
    ids = random.integers(len(SPECIAL), len(vocabulary), drawn.sum())
    return [selfies_of(vocabulary, part) for part in np.split(ids, np.cumsum(drawn)[:-1])]


def shuffled_latents(
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
    """`n` strings decoded from latent points of training molecules whose coordinates were dealt out anew: a null.

    Each dimension keeps its distribution and loses what it has to do with the others. Samples are no better than these
    where the decoder does without z, or where the prior knows nothing but the dimensions one by one.
    """
    mu, logvar = some_posteriors(model, train, n, seed)
    random = generator(seed, "shuffled latents")
    points = reparameterised(mu, logvar, torch.randn(mu.shape, generator=random))
    points = torch.stack([column[torch.randperm(n, generator=random)] for column in points.T], 1)
    strings = sample_at(
        model, points, seed=seed, temperature=temperature, max_tokens=max_tokens, threads=threads
    )  # fmt: skip
    return list(symbols_of(vocabulary, strings))


def first_strings(
    model: VAE,
    vocabulary: Vocabulary,
    n: int,
    *,
    seed: int,
    temperature: float,
    max_tokens: int,
    threads: int,
    wanted: Mapping[str, float] | None = None,
) -> list[list[str]]:
    """The first string that the model writes for each of `n` samples, stable or not: what more attempts are worth."""
    strings = sample_prior(
        model, 0, n, seed=seed, temperature=temperature, max_tokens=max_tokens, threads=threads, wanted=wanted
    )
    return list(symbols_of(vocabulary, strings))


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
    accept: Accept | None = None,
    attempts: int = 1,
) -> tuple[list[list[str]], int]:
    """`n` strings decoded from latent points of training molecules: what a prior without any gap would sample.

    A sampled FCD above theirs is what the prior loses: the gap that a better prior can win.

    Returns:
        the strings, and how many were written to get them.
    """
    mu, logvar = some_posteriors(model, train, n, seed)

    def points(chunk: int, attempt: int) -> Tensor:
        random = generator(seed, "aggregate posterior", chunk, attempt)
        own = torch.arange(chunk * CHUNK, min(n, (chunk + 1) * CHUNK))
        rows = torch.randint(n, own.shape, generator=random) if attempt else own
        return reparameterised(mu[rows], logvar[rows], torch.randn(mu[rows].shape, generator=random))

    strings = sample_from(
        model, points, range(-(-n // CHUNK)), seed=seed, temperature=temperature, max_tokens=max_tokens,
        threads=threads, accept=accept, attempts=attempts,
    )  # fmt: skip
    return list(symbols_of(vocabulary, strings)), int(strings.attempts.sum())


def training_molecules(train: TokenSet, vocabulary: Vocabulary, n: int, seed: int) -> list[list[str]]:
    """`n` training molecules (all of them where there are fewer): what a perfect memory would sample, the ceiling."""
    random = np.random.default_rng(derive(seed, "training molecules"))
    rows = random.choice(len(train), min(n, len(train)), replace=False)
    return [selfies_of(vocabulary, train[row]) for row in rows]
