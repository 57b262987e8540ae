"""Metrics of a model on held-out molecules: the row of an epoch in the training history."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import PAD
from molvae.inference.posterior_diagnostics import (
    compute_mean_kl_by_dimension,
    count_active_units,
    estimate_mutual_information,
    measure_free_running,
)
from molvae.nn.vae import VAE, LossTerms
from molvae.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from molvae.config import TrainSettings

R2_PREFIX = "valid_r2_"  # of the metrics that hold R² of a property


class HeldOutEvaluation(NamedTuple):
    """Metrics by name, as the history has them, and the KL of each latent dimension, nats (none for an autoencoder)."""

    metrics: dict[str, float]
    kl_by_dimension: list[float]


@torch.inference_mode()
def evaluate_held_out(
    model: VAE, molecules: TokenSet, settings: TrainSettings, device: torch.device
) -> HeldOutEvaluation:
    """Evaluate a model on held-out molecules with one draw of z a molecule, the same draw in every epoch.

    Args:
        model: a VAE.
        molecules: held out.
        settings: their batch size and seed are used.
        device: where the model is.

    Returns:
        the negative ELBO (KL weight 1) and its terms in nats per molecule; the fraction of tokens that are the
        likeliest one under teacher forcing; what is reconstructed in free running; active latent units; mutual
        information (only for a VAE). With a head −log density of the properties, and R² of each from mu.
    """
    model.eval()
    generator = torch.Generator(device).manual_seed(derive_seed(settings.seed, "held out"))
    totals = torch.zeros(len(LossTerms._fields), dtype=torch.float64)
    n_right, n_tokens = 0, 0
    posteriors: list[Tensor] = []  # mu, logvar, z: (3, B, Z) of each batch
    properties: list[Tensor] = []  # predicted and true: (2, B, P) of each batch
    for rows in molecules.iter_by_length(settings.batch_size):
        batch = molecules.collate(rows, device)
        noise = torch.randn((len(rows), model.latent_dim), generator=generator, device=device)
        output = model(batch, noise)
        totals += output.terms.stack().double().cpu() * len(rows)
        is_real = batch.targets != PAD
        n_right += int(((output.logits.argmax(-1) == batch.targets) & is_real).sum())
        n_tokens += int(is_real.sum())
        posteriors.append(torch.stack([output.mu, output.logvar, output.z]).cpu())
        if model.head is not None and batch.properties is not None:
            properties.append(torch.stack([model.head(output.mu), batch.properties]).cpu())
    reconstruction, kl, property_nats = (totals / len(molecules)).tolist()
    mu, logvar, z = torch.cat(posteriors, dim=1)
    order = torch.randperm(len(mu), generator=torch.Generator().manual_seed(0))  # they came by length
    mu, logvar, z = mu[order], logvar[order], z[order]
    exact, token_accuracy = measure_free_running(model, molecules, device)
    metrics = {
        "valid_loss_nats": reconstruction + kl,
        "valid_reconstruction_nats": reconstruction,
        "valid_kl_nats": kl,
        "valid_token_accuracy": n_right / n_tokens,
        "valid_free_token_accuracy": token_accuracy,
        "valid_exact_reconstruction": exact,
        "active_units": count_active_units(mu),
    }
    if properties and model.head is not None:
        r_squared = model.head.compute_r_squared(*torch.cat(properties, dim=1))
        metrics["valid_property_nats"] = property_nats
        metrics |= {f"{R2_PREFIX}{name}": value for name, value in r_squared.items()}
    if not model.variational:
        return HeldOutEvaluation(metrics, [])
    metrics["mutual_information_nats"] = estimate_mutual_information(mu, logvar, z)
    return HeldOutEvaluation(metrics, compute_mean_kl_by_dimension(mu, logvar))
