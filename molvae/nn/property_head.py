"""The head that tells properties of molecules from their latent points.

Shapes: B molecules, Z latent dimensions, P properties. Values are in the properties' own units, NaN where unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from molvae.errors import TrainingError
from molvae.nn.losses import normal_log_density


class PropertyHead(nn.Module):
    """Each standardised property is normal around a linear function of z, with one learned noise scale.

    Linear, so that the latent space gets a direction for each property, and that the standard normal prior under the
    condition of some values has a closed form (`molvae.inference.conditioning`).
    Source: Gómez-Bombarelli et al. 2018 (arXiv:1610.02415), who train a predictor with the VAE.

    Attributes:
        names: of the properties.
        mean, sd: (P,) of the training molecules: what the properties are standardised by.
    """

    def __init__(self, names: Sequence[str], latent_dim: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.linear = nn.Linear(latent_dim, len(names))
        self.log_noise = nn.Parameter(torch.zeros(len(names)))  # of the standard deviation
        self.register_buffer("mean", torch.zeros(len(names)))
        self.register_buffer("sd", torch.ones(len(names)))
        nn.init.zeros_(self.linear.weight)  # it starts with the mean of all
        nn.init.zeros_(self.linear.bias)

    def standardise_by(self, values: np.ndarray) -> None:
        """Take mean and standard deviation of the training molecules' values, (n, P).

        Raises:
            TrainingError: a property without two different values, by name.
        """
        for k, name in enumerate(self.names):
            known = values[np.isfinite(values[:, k]), k].astype(float)
            if len(np.unique(known)) < 2:
                raise TrainingError(
                    f"the training molecules do not differ in {name}. Leave it out of featurize.properties."
                )
            self.mean[k], self.sd[k] = known.mean(), known.std()

    def forward(self, z: Tensor) -> Tensor:
        """Values, (B, P), at latent points (B, Z)."""
        return self.mean + self.sd * self.linear(z).float()

    def nats(self, z: Tensor, values: Tensor) -> Tensor:
        """−log p of the standardised values, (B, P), given points (B, Z): summed over those known, mean over molecules.

        Returns:
            a scalar, in nats per molecule.
        """
        standardised = (values - self.mean) / self.sd
        # NaN goes before anything has a gradient: 0 times NaN is NaN
        density = normal_log_density(standardised.nan_to_num(), self.linear(z).float(), 2 * self.log_noise)
        return -(density * values.isfinite()).sum() / len(values)

    def r_squared(self, predicted: Tensor, values: Tensor) -> dict[str, float]:
        """R² of each property, (n, P) each, over the molecules that it is known of, if they differ in it."""
        found = {}
        for name, told, true in zip(self.names, predicted.double().T, values.double().T, strict=True):
            known = true.isfinite()
            spread = (true[known] - true[known].mean()).square().sum()
            if spread > 0:
                found[name] = (1 - (told - true)[known].square().sum() / spread).item()
        return found
