"""The terms of the loss. All are nats per molecule, so that a KL weight of 1 is the true ELBO."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from molvae.data.vocabulary import PAD

if TYPE_CHECKING:
    from molvae.config import TrainSettings


def compute_reconstruction_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute −log p(x|z) of a batch: summed over tokens, mean over molecules. PAD is no target, EOS is one.

    Args:
        logits: (T, B, V) unnormalised scores.
        targets: (T, B) int64 ids.

    Returns:
        a scalar, in nats per molecule.
    """
    total = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=PAD, reduction="sum")
    return total / targets.shape[1]


def compute_kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """Compute KL(N(mu, e^logvar) ‖ N(0, 1)) in each latent dimension, (B, Z) nats.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix B.
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def reparameterise(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Draw from N(mu, e^logvar) by standard normal `noise`, with gradients to mu and logvar; shapes broadcast.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), section 2.4.
    """
    return mu + noise * (0.5 * logvar).exp()


def compute_normal_log_density(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Compute log N(z; mu, e^logvar) in each dimension, nats; shapes broadcast."""
    return -0.5 * ((z - mu).square() * (-logvar).exp() + logvar + math.log(2 * math.pi))


def compute_kl_penalty(kl: Tensor, weight: float, settings: TrainSettings) -> Tensor:
    """Compute what the KL term adds to the loss.

    With `target_kl` it is weight · |KL − target|, which holds the KL at the target where the weight is large enough;
    else weight · max(KL, free_nats): below `free_nats` the term has no gradient, so that the decoder never finds it
    cheapest to ignore z. With weight 1, no target and no free nats, reconstruction + penalty is the negative ELBO.
    Sources: Burgess et al. 2018 (arXiv:1804.03599) for the target; Kingma et al. 2016 (arXiv:1606.04934), appendix
    C.8, with one group for all dimensions, for the free nats.

    Args:
        kl: mean KL of a joint batch, nats per molecule.
        weight: of the term at this step.
        settings: its `target_kl` and `free_nats`.
    """
    if settings.target_kl is not None:
        return weight * (kl - settings.target_kl).abs()
    return weight * kl.clamp(min=settings.free_nats)
