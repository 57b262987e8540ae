"""Schedules of a training run: the weight of the KL term and the learning rate, as functions of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from molvae.config import TrainSettings


def compute_kl_weight(step: int, steps: int, settings: TrainSettings) -> float:
    """Compute the weight of the KL term at a step of `steps`.

    constant: always `kl_weight`. linear: from 0 over the first `kl_warmup` of the run, then constant. cyclical:
    the run is cut into `kl_cycles`, and in each the weight rises over its first `kl_warmup`.
    Source of the last: Fu et al. 2019 (arXiv:1903.10145).

    >>> from molvae.config import TrainSettings
    >>> [compute_kl_weight(step, 100, TrainSettings(kl_warmup=0.2)) for step in (0, 10, 20, 99)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if settings.kl_schedule == "constant" or not settings.kl_warmup:
        return settings.kl_weight
    if settings.kl_schedule == "linear":
        return settings.kl_weight * min(1.0, step / (settings.kl_warmup * steps))
    return settings.kl_weight * min(1.0, step * settings.kl_cycles / steps % 1 / settings.kl_warmup)


def compute_learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Compute the step size: a linear rise over the first `warmup` of the run, then half a cosine to the final one."""
    rise = settings.warmup * steps
    if step < rise:
        return settings.learning_rate * (step + 1) / (rise + 1)
    fraction = (step - rise) / max(1.0, steps - rise)
    low = settings.final_learning_rate
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))))
