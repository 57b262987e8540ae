"""Baselines: lower and upper bounds of a metric."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from molvae.data.dataset import TokenSet
from molvae.data.tokenizer import ids_to_selfies
from molvae.data.vocabulary import SPECIAL, Vocabulary
from molvae.inference.posterior import compute_random_posteriors
from molvae.inference.round_trip_filter import iter_selfies
from molvae.inference.sampling import (
    CHUNK_SIZE,
    AcceptFunction,
    SamplingOptions,
    sample_at_points,
    sample_chunks,
    sample_prior,
)
from molvae.nn.losses import reparameterise
from molvae.nn.vae import VAE
from molvae.runtime.seeds import derive_seed, make_generator


def sample_random_tokens(vocabulary: Vocabulary, lengths: np.ndarray, n: int, seed: int) -> list[list[str]]:
    """Draw `n` strings of tokens evenly from the vocabulary: the random baseline.

    Args:
        vocabulary: the tokens.
        lengths: (m,) tokens of strings, from which lengths are drawn.
        n: strings.
        seed: of the draws.

    Returns:
        SELFIES symbols of each.
    """
    random = np.random.default_rng(derive_seed(seed, "random tokens"))
    drawn_lengths = random.choice(lengths, n)
    ids = random.integers(len(SPECIAL), len(vocabulary), drawn_lengths.sum())
    return [ids_to_selfies(vocabulary, part.tolist()) for part in np.split(ids, np.cumsum(drawn_lengths)[:-1])]


def sample_shuffled_latents(
    model: VAE, train: TokenSet, vocabulary: Vocabulary, n: int, options: SamplingOptions
) -> list[list[str]]:
    """Decode latent points of training molecules whose coordinates were shuffled over the molecules: a baseline.

    Each dimension keeps its distribution and loses its dependence on the others. Samples are no better than these
    where the decoder ignores z, or where the prior knows only the marginal distribution of each dimension.

    Args:
        model: a VAE.
        train: training molecules.
        vocabulary: of the model.
        n: strings.
        options: how samples were drawn; the first string of each is taken.

    Returns:
        SELFIES symbols of each.
    """
    mu, logvar = compute_random_posteriors(model, train, n, options.seed)
    random = make_generator(options.seed, "shuffled latents")
    points = reparameterise(mu, logvar, torch.randn(mu.shape, generator=random))
    points = torch.stack([column[torch.randperm(n, generator=random)] for column in points.T], 1)
    strings = sample_at_points(model, points, replace(options, mcmc_steps=0))
    return list(iter_selfies(vocabulary, strings))


def sample_unfiltered(model: VAE, vocabulary: Vocabulary, n: int, options: SamplingOptions) -> list[list[str]]:
    """Decode the first string of each of `n` samples, round-trip consistent or not, to measure the effect of rejection.

    No MCMC steps are taken.

    Args:
        model: a VAE.
        vocabulary: of the model.
        n: strings.
        options: how samples were drawn.

    Returns:
        SELFIES symbols of each.
    """
    strings = sample_prior(model, 0, n, replace(options, mcmc_steps=0))
    return list(iter_selfies(vocabulary, strings))


def sample_from_posteriors(
    model: VAE,
    train: TokenSet,
    vocabulary: Vocabulary,
    n: int,
    options: SamplingOptions,
    accept: AcceptFunction | None = None,
) -> tuple[list[list[str]], int]:
    """Decode `n` latent points of training molecules: samples of a prior without any gap to the aggregate posterior.

    A sampled FCD above theirs is what the prior loses: the gap that a better prior can win.

    Args:
        model: a VAE.
        train: training molecules.
        vocabulary: of the model.
        n: strings.
        options: how samples were drawn.
        accept: as in `molvae.inference.sampling.sample_chunks`.

    Returns:
        SELFIES symbols of each, and how many strings were decoded to get them.
    """
    mu, logvar = compute_random_posteriors(model, train, n, options.seed)

    def draw_points(chunk: int, attempt: int) -> Tensor:
        random = make_generator(options.seed, "aggregate posterior", chunk, attempt)
        chunk_rows = torch.arange(chunk * CHUNK_SIZE, min(n, (chunk + 1) * CHUNK_SIZE))
        rows = torch.randint(n, chunk_rows.shape, generator=random) if attempt else chunk_rows
        return reparameterise(mu[rows], logvar[rows], torch.randn(mu[rows].shape, generator=random))

    chunks = range(-(-n // CHUNK_SIZE))
    samples = sample_chunks(model, draw_points, chunks, replace(options, mcmc_steps=0), accept)
    return list(iter_selfies(vocabulary, samples)), int(samples.tries.sum())


def draw_training_rows(n_molecules: int, n: int, seed: int) -> np.ndarray:
    """Draw `n` training molecules (all of them where there are fewer), what a perfect memory would sample: their rows.

    Args:
        n_molecules: training molecules.
        n: to draw.
        seed: of the draw.
    """
    random = np.random.default_rng(derive_seed(seed, "training molecules"))
    return random.choice(n_molecules, min(n, n_molecules), replace=False)
