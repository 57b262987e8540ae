"""The head that predicts properties of molecules from their latent points.

Shapes: B molecules, Z latent dimensions, P properties. Values are in the properties' own units, NaN where unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from molvae.errors import TrainingError
from molvae.nn.losses import compute_normal_log_density


class PropertyHead(nn.Module):
    """Each standardised property is normal around a linear function of z, with one learned noise scale.

    Linear, so that the latent space gets a direction for each property, and that the standard normal prior under the
    condition of some values has a closed form (`molvae.inference.conditioning`).
    Source: Gómez-Bombarelli et al. 2018 (arXiv:1610.02415), who train a predictor with the VAE.

    Attributes:
        names: of the properties.
        mean: (P,) of the training molecules, by which properties are standardised.
        sd: (P,) standard deviations of the training molecules, likewise.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, names: Sequence[str], latent_dim: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.linear = nn.Linear(latent_dim, len(names))
        self.log_noise = nn.Parameter(torch.zeros(len(names)))  # of the standard deviation
        self.register_buffer("mean", torch.zeros(len(names)))
        self.register_buffer("sd", torch.ones(len(names)))
        nn.init.zeros_(self.linear.weight)  # it starts by predicting the mean
        nn.init.zeros_(self.linear.bias)

    def fit_scaler(self, values: np.ndarray) -> None:
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
        """Predict the properties, (B, P), at latent points (B, Z)."""
        return self.mean + self.sd * self.linear(z).float()

    def compute_nll(self, z: Tensor, values: Tensor) -> Tensor:
        """Compute −log p(standardised properties | latent points): summed over those known, mean over molecules.

        Args:
            z: (B, Z) latent points.
            values: (B, P), NaN where unknown.

        Returns:
            a scalar, in nats per molecule.
        """
        standardised = (values - self.mean) / self.sd
        # NaN goes before anything has a gradient: 0 times NaN is NaN
        density = compute_normal_log_density(standardised.nan_to_num(), self.linear(z).float(), 2 * self.log_noise)
        return -(density * values.isfinite()).sum() / len(values)

    def compute_r_squared(self, predicted: Tensor, values: Tensor) -> dict[str, float]:
        """Compute R² of each property, (n, P) each, over the molecules that it is known of, if they differ in it."""
        r_squared = {}
        for name, estimate, truth in zip(self.names, predicted.double().T, values.double().T, strict=True):
            known = truth.isfinite()
            spread = (truth[known] - truth[known].mean()).square().sum()
            if spread > 0:
                r_squared[name] = (1 - (estimate - truth)[known].square().sum() / spread).item()
        return r_squared
