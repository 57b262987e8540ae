"""Is the latent space used? Figures that tell a collapsed posterior from a healthy one.

Shapes: N molecules, Z latent dimensions.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import EOS, PAD
from molvae.inference.decoding import decode_points
from molvae.nn.losses import kl_per_dimension, normal_log_density
from molvae.nn.vae import VAE

ACTIVE_VARIANCE = 0.01  # a latent unit counts as active above it. Source: Burda et al. 2016 (arXiv:1509.00519)
COLLAPSED_NATS = math.log(2)  # mutual information below it: z tells less than one bit about its molecule
MUTUAL_MOLECULES = 2000  # the estimate cannot exceed their logarithm, 7.6 nats
PAIR_NUMBERS = 10**7  # of a block of pairs: 80 MB, a few times over
WRITTEN_MOLECULES = 500  # written freely each epoch: 0.3 s


def active_units(mu: Tensor) -> int:
    """Dimensions whose posterior mean, (N, Z), varies over the molecules."""
    return int((mu.var(0, unbiased=False) > ACTIVE_VARIANCE).sum())


def kl_by_dimension(mu: Tensor, logvar: Tensor) -> list[float]:
    """Mean KL of each dimension's posterior to a normal, nats.

    That normal is the standard one; of a learned prior it does not tell the KL, but still which dimensions are in use.
    """
    return kl_per_dimension(mu, logvar).mean(0).tolist()


def mutual_information(mu: Tensor, logvar: Tensor, z: Tensor) -> float:
    """I(x; z) in nats: mean of log q(z|x) − log q(z), where q(z) is the mean of all molecules' posteriors.

    Biased low where the truth comes near log N, the most that N molecules can show.
    Source: Hoffman & Johnson 2016; as an estimator of collapse, He et al. 2019 (arXiv:1901.05534).
    """
    mu, logvar, z = (part[:MUTUAL_MOLECULES].double() for part in (mu, logvar, z))
    rows = max(1, PAIR_NUMBERS // mu.numel())
    pairs = torch.cat([normal_log_density(some[:, None], mu, logvar).sum(-1) for some in z.split(rows)])  # (N, N)
    return (pairs.diagonal() - pairs.logsumexp(1) + math.log(len(z))).mean().item()


@torch.inference_mode()
def free_running(model: VAE, molecules: TokenSet, device: torch.device) -> tuple[float, float]:
    """Reconstruction from mu, each token the likeliest after those the decoder wrote itself.

    Returns:
        share of molecules that come out token for token, and mean share of a molecule's tokens (EOS counts) that
        come out in their place; of WRITTEN_MOLECULES molecules, evenly from first to last (files are often sorted).
    """
    rows = np.linspace(0, len(molecules) - 1, min(len(molecules), WRITTEN_MOLECULES)).astype(np.int64)
    batch = molecules.batch(rows, device)
    mu, _ = model.encoder(*batch.read)
    written = decode_points(model, mu, torch.zeros(batch.targets.shape), temperature=0)
    ids = torch.from_numpy(written.ids).T
    targets = batch.targets.cpu()
    length = min(len(ids), len(targets))
    same = torch.zeros_like(targets, dtype=torch.bool)
    same[:length] = ids[:length] == targets[:length]
    real = targets != PAD
    exact = (same | ~real).all(0) & (ids == EOS).any(0)
    return exact.double().mean().item(), ((same & real).sum(0) / real.sum(0)).double().mean().item()
