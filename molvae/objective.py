"""The loss and its schedules. All losses are nats per molecule, so that a KL weight of 1 is the true ELBO."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from molvae.vocabulary import PAD

if TYPE_CHECKING:
    from molvae.config import TrainSettings


def reconstruction_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """−log p(x|z) of a batch: summed over tokens, mean over molecules. PAD is no target, EOS is one.

    Args:
        logits: (T, B, V) unnormalised scores.
        targets: (T, B) int64 ids.
    Returns:
        a scalar, in nats per molecule.
    """
    total = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=PAD, reduction="sum")
    return total / targets.shape[1]


def kl_nats(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) ‖ N(0, 1)): summed over latent dimensions, mean over molecules, in nats per molecule.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix B.
    """
    return kl_per_dimension(mu, logvar).sum(-1).mean()


def kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """The same before any sum: (B, Z) nats."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def training_loss(reconstruction: Tensor, kl: Tensor, weight: float, free_nats: float) -> Tensor:
    """What training minimises: reconstruction + weight · max(KL, free_nats), nats per molecule.

    The hinge is on the batch's total: below `free_nats` the KL term has no gradient, so that the decoder never finds
    it cheapest to ignore z. With weight 1 and free_nats 0 it is the negative ELBO.
    Source: Kingma et al. 2016 (arXiv:1606.04934), appendix C.8, with one group for all dimensions.
    """
    return reconstruction + weight * kl.clamp(min=free_nats)


def kl_weight(step: int, steps: int, settings: TrainSettings) -> float:
    """Weight of the KL term at a step: linear from 0 over the first `kl_warmup` of the run, then constant."""
    ramp = settings.kl_warmup * steps
    return settings.kl_weight * (min(1.0, step / ramp) if ramp else 1.0)


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Step size: linear rise over the first `warmup` of the run, then half a cosine down to the final fraction."""
    rise = settings.warmup * steps
    if step < rise:
        return settings.learning_rate * (step + 1) / (rise + 1)
    fraction = (step - rise) / max(1.0, steps - rise)
    low = settings.final_learning_rate
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))))
