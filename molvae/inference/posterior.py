"""Where molecules lie in the latent space. Shapes: n molecules, Z latent dimensions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from molvae.data.dataset import TokenSet
from molvae.nn.losses import reparameterised
from molvae.nn.vae import VAE
from molvae.runtime.seeds import derive, generator

BATCH = 512


@torch.inference_mode()
def posterior(model: VAE, molecules: TokenSet) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(z|x), (n, Z) each on the CPU, rows as in `molecules`."""
    device = next(model.parameters()).device
    mu, logvar = (torch.empty(len(molecules), model.latent_dim) for _ in range(2))
    for rows in molecules.in_order(BATCH):
        found = model.encoder(*molecules.batch(rows, device).read)
        mu[rows], logvar[rows] = (part.cpu() for part in found)
    return mu, logvar


def some_posteriors(model: VAE, molecules: TokenSet, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and log-variance, (n, Z) each, of molecules in random order, each equally often, give or take one."""
    random = np.random.default_rng(derive(seed, "aggregate posterior"))
    rounds = -(-n // len(molecules))
    rows = np.concatenate([random.permutation(len(molecules)) for _ in range(rounds)])[:n]
    distinct, places = np.unique(rows, return_inverse=True)
    mu, logvar = posterior(model, molecules.select(distinct))
    return mu[places], logvar[places]


def posterior_draws(model: VAE, molecules: TokenSet, n: int, seed: int) -> Tensor:
    """`n` draws of the aggregate posterior, (n, Z), in random order; each molecule equally often, give or take one."""
    mu, logvar = some_posteriors(model, molecules, n, seed)
    noise = torch.randn((n, model.latent_dim), generator=generator(seed, "aggregate posterior"))
    return reparameterised(mu, logvar, noise)
