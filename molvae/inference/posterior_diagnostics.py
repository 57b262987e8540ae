"""Measures that tell a collapsed posterior from a healthy one, and the one rule for collapse.

Shapes: N molecules, Z latent dimensions.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import EOS, PAD
from molvae.inference.decoding import decode_latents
from molvae.nn.losses import compute_kl_per_dimension, compute_normal_log_density
from molvae.nn.vae import VAE

ACTIVE_VARIANCE = 0.01  # a latent unit counts as active above it. Source: Burda et al. 2016 (arXiv:1509.00519)
COLLAPSED_NATS = math.log(2)  # mutual information below it: z holds less than one bit about its molecule
MAX_MI_MOLECULES = 2000  # the estimate cannot exceed their logarithm, 7.6 nats
MAX_PAIR_VALUES = 10**7  # of a block of pairs: 80 MB, a few times over
MAX_DECODED_MOLECULES = 500  # decoded in free running each epoch: 0.3 s


def is_collapsed(mutual_information_nats: float | None) -> bool:
    """Decide whether a posterior has collapsed: the one rule, for training, latent diagnostics and report.

    Args:
        mutual_information_nats: I(x; z); None for a plain autoencoder, whose posterior cannot collapse.
    """
    return mutual_information_nats is not None and mutual_information_nats < COLLAPSED_NATS


def count_active_units(mu: Tensor) -> int:
    """Count the dimensions whose posterior mean, (N, Z), varies over the molecules."""
    return int((mu.var(0, unbiased=False) > ACTIVE_VARIANCE).sum())


def compute_mean_kl_by_dimension(mu: Tensor, logvar: Tensor) -> list[float]:
    """Compute the mean KL of each dimension's posterior to the standard normal, nats.

    For a learned prior this is not its KL, but it still shows which dimensions are in use.
    """
    by_dimension: list[float] = compute_kl_per_dimension(mu, logvar).mean(0).tolist()
    return by_dimension


def estimate_mutual_information(mu: Tensor, logvar: Tensor, z: Tensor) -> float:
    """Estimate I(x; z) in nats: mean of log q(z|x) − log q(z), where q(z) is the mean of all molecules' posteriors.

    Biased low where the truth comes near log N, the most that N molecules can show.
    Source: Hoffman & Johnson 2016; as an estimator of collapse, He et al. 2019 (arXiv:1901.05534).
    """
    mu, logvar, z = (part[:MAX_MI_MOLECULES].double() for part in (mu, logvar, z))
    rows = max(1, MAX_PAIR_VALUES // mu.numel())
    blocks = [compute_normal_log_density(part[:, None], mu, logvar).sum(-1) for part in z.split(rows)]
    pairs = torch.cat(blocks)  # (N, N)
    return (pairs.diagonal() - pairs.logsumexp(1) + math.log(len(z))).mean().item()


@torch.inference_mode()
def measure_free_running(model: VAE, molecules: TokenSet, device: torch.device) -> tuple[float, float]:
    """Measure reconstruction from mu, each token the likeliest after those the decoder chose itself.

    Returns:
        fraction of molecules reconstructed token for token, and mean fraction of a molecule's tokens (EOS counts) that
        are right in their place; of MAX_DECODED_MOLECULES, evenly from first to last (files are often sorted).
    """
    count = min(len(molecules), MAX_DECODED_MOLECULES)
    rows = np.linspace(0, len(molecules) - 1, count).astype(np.int64)
    batch = molecules.collate(rows, device)
    mu, _ = model.encoder(*batch.encoder_inputs)
    strings = decode_latents(model, mu, torch.zeros(batch.targets.shape), temperature=0)
    ids = torch.from_numpy(strings.ids).T
    targets = batch.targets.cpu()
    length = min(len(ids), len(targets))
    is_same = torch.zeros_like(targets, dtype=torch.bool)
    is_same[:length] = ids[:length] == targets[:length]
    is_real = targets != PAD
    exact = (is_same | ~is_real).all(0) & (ids == EOS).any(0)
    return exact.double().mean().item(), ((is_same & is_real).sum(0) / is_real.sum(0)).double().mean().item()
