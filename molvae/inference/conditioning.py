"""Latent points of molecules with wanted values: the standard normal prior under a condition.

The condition is that the head says the wanted values, W z + b = wanted: they are then the mean of what a faithful
decoder writes. To ask that W z + b and the head's noise add up to them leaves the points nearer to the prior's mean,
although what is written scatters anew around each: where logP 0.5 and 3.5 were wanted, samples had 2.23 and 2.88 on
average in place of 1.32 and 3.12 (model as in `benchmarks/properties.py`, weight 1).
Shapes: n points, Z latent dimensions, K wanted properties.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor

from molvae.errors import MolvaeError, did_you_mean
from molvae.nn.priors import StandardNormal
from molvae.nn.vae import VAE

log = logging.getLogger(__name__)
FAR = 4.0  # standard deviations of the prior: one draw in 16 000 is farther out along a direction
NO_HEAD = "this model tells no properties; featurize and train with featurize.properties set."


def check(model: VAE, wanted: Mapping[str, float]) -> None:
    """See that a model can be asked for these values.

    Raises:
        MolvaeError: it has no head, or the head does not know a property; its prior is no normal one; or a value is
            not finite.
    """
    if model.head is None:
        raise MolvaeError(NO_HEAD)
    for name, value in wanted.items():
        if name not in model.head.names:
            raise MolvaeError(f"the model does not tell the property {name!r}.{did_you_mean(name, model.head.names)}")
        if not isinstance(value, Real) or not math.isfinite(value):
            raise MolvaeError(f"{name} is to be {value!r}; give a finite number.")
    if not model.variational or not isinstance(model.prior, StandardNormal):
        kind = type(model.prior).__name__ if model.variational else "plain autoencoder without any"
        raise MolvaeError(f"wanted values need a VAE whose samples come from a normal prior; this one is a {kind}.")
    if (far := distance(model, wanted)) > FAR:
        log.warning(
            "the wanted values lie %.1f standard deviations from the prior's mean, where no molecule was: "
            "either none of the data had them, or the model hardly tells them", far,
        )  # fmt: skip


@torch.no_grad()
def draw(model: VAE, wanted: Mapping[str, float], n: int, generator: torch.Generator) -> Tensor:
    """`n` points, (n, Z) on the CPU, of the prior given that the head says these values of them.

    Exact: of a draw of the standard normal all that the head does not look at stays as it is.

    Args:
        wanted: values by name, in the properties' own units; the order does not count.
    """
    weight, missing = _asked(model, wanted)
    z = model.prior.draw(n, generator).double()
    return (z + (missing - z @ weight.T) @ torch.linalg.pinv(weight).T).float()


def distance(model: VAE, wanted: Mapping[str, float]) -> float:
    """How far from the prior's mean these values lie, in its standard deviations: the norm of the nearest point.

    Samples of a condition beyond a few of them lie where no training molecule did.
    """
    weight, missing = _asked(model, wanted)
    return torch.linalg.vector_norm(torch.linalg.pinv(weight) @ missing).item()


def _asked(model: VAE, wanted: Mapping[str, float]) -> tuple[Tensor, Tensor]:
    """The head's weights for the wanted properties, (K, Z), and what W z has to be, (K,), float64."""
    head = model.head
    rows = [k for k, name in enumerate(head.names) if name in wanted]
    weight, bias, mean, sd = (
        part.detach().cpu().double()[rows] for part in (head.linear.weight, head.linear.bias, head.mean, head.sd)
    )
    values = torch.tensor([wanted[head.names[k]] for k in rows], dtype=torch.float64)
    return weight, (values - mean) / sd - bias
