"""Conditional generation: latent points of molecules with target properties, from the standard normal prior.

The condition is that the head predicts the targets, W z + b = target: they are then the mean of what a faithful
decoder writes. Conditioning on the noisy prediction instead, W z + b + noise = target, shrinks z towards 0, although
decoded molecules scatter anew around each point: where logP 0.5 and 3.5 were the targets, samples had 2.23 and 2.88 on
average in place of 1.32 and 3.12 (model as in `benchmarks/properties.py`, weight 1).
Shapes: n points, Z latent dimensions, K target properties.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor

from molvae.errors import MolvaeError, suggest_nearest
from molvae.nn.priors import StandardNormal
from molvae.nn.property_head import PropertyHead
from molvae.nn.vae import VAE

log = logging.getLogger(__name__)
MAX_DISTANCE = 4.0  # standard deviations of the prior: one draw in 16 000 is farther out along a direction


def require_head(model: VAE) -> PropertyHead:
    """Get the property head of a model.

    Raises:
        MolvaeError: it was trained without properties.
    """
    if model.head is None:
        raise MolvaeError("this model predicts no properties; featurize and train with featurize.properties set.")
    return model.head


def check_targets(model: VAE, targets: Mapping[str, float]) -> None:
    """Check that a model can be asked for these properties, and warn of those far outside its prior.

    Raises:
        MolvaeError: it has no head, or the head does not know a property; its prior is no normal one; or a value is
            not finite.
    """
    head = require_head(model)
    for name, value in targets.items():
        if name not in head.names:
            raise MolvaeError(f"the model does not predict the property {name!r}.{suggest_nearest(name, head.names)}")
        if not isinstance(value, Real) or not math.isfinite(value):
            raise MolvaeError(f"the target of {name} is {value!r}; give a finite number.")
    if not model.variational or not isinstance(model.prior, StandardNormal):
        kind = type(model.prior).__name__ if model.variational else "plain autoencoder without any"
        raise MolvaeError(f"target properties need a VAE whose samples come from a normal prior; this one is a {kind}.")
    if (distance := compute_distance(model, targets)) > MAX_DISTANCE:
        log.warning(
            "the target properties lie %.1f standard deviations from the prior's mean, where no training molecule was: "
            "either none of the data had them, or the model hardly predicts them", distance,
        )  # fmt: skip


@torch.no_grad()
def sample_conditioned(model: VAE, targets: Mapping[str, float], n: int, generator: torch.Generator) -> Tensor:
    """Draw `n` points of the prior given that the head predicts the targets at them.

    Exact: of a draw of the standard normal, all directions that the head does not read stay as they are.

    Args:
        model: a VAE with a head and a normal prior.
        targets: values by name, in the properties' own units; the order does not count.
        n: points.
        generator: of the CPU.

    Returns:
        (n, Z), on the CPU.
    """
    weight, residual = _build_condition(model, targets)
    z = model.prior.sample(n, generator).double()
    return (z + (residual - z @ weight.T) @ torch.linalg.pinv(weight).T).float()


def compute_distance(model: VAE, targets: Mapping[str, float]) -> float:
    """Compute how far from the prior's mean the targets lie, in its standard deviations: the norm of the nearest point.

    Samples of a condition beyond a few of them lie where no training molecule did.
    """
    weight, residual = _build_condition(model, targets)
    return torch.linalg.vector_norm(torch.linalg.pinv(weight) @ residual).item()


def _build_condition(model: VAE, targets: Mapping[str, float]) -> tuple[Tensor, Tensor]:
    """Get the head's weights for the targets, (K, Z), and what W z has to be, (K,), float64."""
    head = require_head(model)
    rows = [k for k, name in enumerate(head.names) if name in targets]
    weight, bias, mean, sd = (
        part.detach().cpu().double()[rows] for part in (head.linear.weight, head.linear.bias, head.mean, head.sd)
    )
    values = torch.tensor([targets[head.names[k]] for k in rows], dtype=torch.float64)
    return weight, (values - mean) / sd - bias
