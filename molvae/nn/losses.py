"""The loss and its schedules. All losses are nats per molecule, so that a KL weight of 1 is the true ELBO."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from molvae.data.vocabulary import PAD

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


def kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) ‖ N(0, 1)) in each latent dimension, (B, Z) nats.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix B.
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def reparameterised(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """A draw of N(mu, e^logvar) made from standard normal `noise`, with gradients to mu and logvar; shapes broadcast.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), section 2.4.
    """
    return mu + noise * (0.5 * logvar).exp()


def normal_log_density(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; mu, e^logvar) in each dimension, nats; shapes broadcast."""
    return -0.5 * ((z - mu).square() * (-logvar).exp() + logvar + math.log(2 * math.pi))


def kl_penalty(kl: Tensor, weight: float, settings: TrainSettings) -> Tensor:
    """What the KL term adds to the loss, from the mean KL of a joint batch: both in nats per molecule.

    With `target_kl` it is weight · |KL − target|, which holds the KL at the target where the weight is large enough;
    else weight · max(KL, free_nats): below `free_nats` the term has no gradient, so that the decoder never finds it
    cheapest to ignore z. With weight 1, no target and no free nats, reconstruction + penalty is the negative ELBO.
    Sources: Burgess et al. 2018 (arXiv:1804.03599) for the target; Kingma et al. 2016 (arXiv:1606.04934), appendix
    C.8, with one group for all dimensions, for the free nats.
    """
    if settings.target_kl is not None:
        return weight * (kl - settings.target_kl).abs()
    return weight * kl.clamp(min=settings.free_nats)


def kl_weight(step: int, steps: int, settings: TrainSettings) -> float:
    """Weight of the KL term at a step of `steps`.

    constant: always `kl_weight`. linear: from 0 over the first `kl_warmup` of the run, then constant. cyclical:
    the run is cut into `kl_cycles`, and in each the weight rises over its first `kl_warmup`.
    Source of the last: Fu et al. 2019 (arXiv:1903.10145).
    """
    if settings.kl_schedule == "constant" or not settings.kl_warmup:
        return settings.kl_weight
    if settings.kl_schedule == "linear":
        return settings.kl_weight * min(1.0, step / (settings.kl_warmup * steps))
    return settings.kl_weight * min(1.0, step * settings.kl_cycles / steps % 1 / settings.kl_warmup)


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Step size: linear rise over the first `warmup` of the run, then half a cosine down to the final fraction."""
    rise = settings.warmup * steps
    if step < rise:
        return settings.learning_rate * (step + 1) / (rise + 1)
    fraction = (step - rise) / max(1.0, steps - rise)
    low = settings.final_learning_rate
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))))
