"""Where molecules lie in the latent space. Shapes: n molecules, Z latent dimensions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from molvae.data.dataset import TokenSet
from molvae.nn.losses import reparameterise
from molvae.nn.vae import VAE
from molvae.runtime.seeds import derive_seed, make_generator

BATCH_SIZE = 512


@torch.inference_mode()
def compute_posterior(model: VAE, molecules: TokenSet) -> tuple[Tensor, Tensor]:
    """Compute mean and log-variance of q(z|x), (n, Z) each on the CPU, rows as in `molecules`."""
    device = next(model.parameters()).device
    mu, logvar = (torch.empty(len(molecules), model.latent_dim) for _ in range(2))
    for rows in molecules.iter_by_length(BATCH_SIZE):
        posterior = model.encoder(*molecules.collate(rows, device).encoder_inputs)
        mu[rows], logvar[rows] = (part.cpu() for part in posterior)
    return mu, logvar


def compute_random_posteriors(model: VAE, molecules: TokenSet, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Compute the posteriors of `n` molecules in random order, each equally often, give or take one.

    Args:
        model: a VAE.
        molecules: those to choose from.
        n: posteriors; where it exceeds the molecules they repeat.
        seed: of the order.

    Returns:
        mean and log-variance, (n, Z) each.
    """
    random = np.random.default_rng(derive_seed(seed, "aggregate posterior"))
    repeats = -(-n // len(molecules))
    rows = np.concatenate([random.permutation(len(molecules)) for _ in range(repeats)])[:n]
    distinct, places = np.unique(rows, return_inverse=True)
    mu, logvar = compute_posterior(model, molecules.select(distinct))
    return mu[places], logvar[places]


def sample_aggregate_posterior(model: VAE, molecules: TokenSet, n: int, seed: int) -> Tensor:
    """Draw `n` points of the aggregate posterior, (n, Z), in random order; molecules as in `compute_random_posteriors`.

    Args:
        model: a VAE.
        molecules: whose posteriors make up the aggregate.
        n: points.
        seed: of order and noise.
    """
    mu, logvar = compute_random_posteriors(model, molecules, n, seed)
    noise = torch.randn((n, model.latent_dim), generator=make_generator(seed, "aggregate posterior"))
    return reparameterise(mu, logvar, noise)
