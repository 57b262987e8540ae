"""Latent points of molecules with wanted values: the standard normal prior under a condition.

A linear head with normal noise makes z and the properties jointly normal, so that the condition has a closed form.
Shapes: n points, Z latent dimensions, K wanted properties.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from molvae.errors import MolvaeError, did_you_mean
from molvae.priors import StandardNormal
from molvae.vae import VAE

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
        if not math.isfinite(value):
            raise MolvaeError(f"{name} is to be {value}; give a finite value.")
    if not model.variational or not isinstance(model.prior, StandardNormal):
        kind = type(model.prior).__name__ if model.variational else "plain autoencoder without any"
        raise MolvaeError(f"wanted values need a VAE whose samples come from a normal prior; this one is a {kind}.")


@torch.no_grad()
def draw(model: VAE, wanted: Mapping[str, float], n: int, generator: torch.Generator) -> Tensor:
    """`n` points, (n, Z) on the CPU, of the prior given that the head's properties have these values.

    Exact: a draw of the prior, and of the values that noise and head make of it, is moved by the regression of z on
    values to the wanted ones.
    Source: Matheron's rule, as in Wilson et al. 2020 (arXiv:2002.09309), section 3.

    Args:
        wanted: values by name, in the properties' own units; the order does not count.
    """
    head = model.head
    rows = [k for k, name in enumerate(head.names) if name in wanted]
    weight, bias, log_noise, mean, sd = (
        part.detach().cpu().double()[rows]
        for part in (head.linear.weight, head.linear.bias, head.log_noise, head.mean, head.sd)
    )
    values = torch.tensor([wanted[head.names[k]] for k in rows], dtype=torch.float64)
    z = model.prior.draw(n, generator).double()
    noise = torch.randn((n, len(rows)), generator=generator).double() * log_noise.exp()
    missing = (values - mean) / sd - (z @ weight.T + bias + noise)  # (n, K)
    covariance = weight @ weight.T + torch.diag((2 * log_noise).exp())
    return (z + torch.linalg.solve(covariance, missing.T).T @ weight).float()
