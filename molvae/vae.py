"""The variational autoencoder: encoder, noise, decoder, prior. No files, no chemistry, no randomness of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from molvae.dataset import Batch
from molvae.networks import Decoder, Drop, Encoder, keep
from molvae.objective import reconstruction_nats
from molvae.priors import make_prior
from molvae.seeds import derive

if TYPE_CHECKING:
    from molvae.config import ModelSettings


class ElboTerms(NamedTuple):
    """What a forward pass gives: the two terms in nats per molecule, and what they were made of."""

    reconstruction: Tensor
    kl: Tensor  # 0 for a plain autoencoder
    logits: Tensor  # (T, B, V)
    mu: Tensor  # (B, Z)
    logvar: Tensor  # (B, Z)
    z: Tensor  # (B, Z)


class VAE(nn.Module):
    """RNN encoder to N(mu, sigma²), RNN decoder, and a prior over the latent space between them."""

    def __init__(self, vocabulary_size: int, settings: ModelSettings) -> None:
        super().__init__()
        self.latent_dim, self.variational = settings.latent_dim, settings.variational
        self.vocabulary_size = vocabulary_size
        self.encoder = Encoder(vocabulary_size, settings)
        self.decoder = Decoder(vocabulary_size, settings)
        self.prior = make_prior(settings.prior, settings.prior_components, self.encoder)

    def forward(self, batch: Batch, noise: Tensor, drop: Drop = keep, written: Tensor | None = None) -> ElboTerms:
        """ELBO terms of a batch with one draw of z a molecule.

        Args:
            noise: (B, Z) standard normal numbers that make the draws.
            drop: dropout; only in training.
            written: (T, B) ids that the decoder is told to have written so far; None: those of the batch.
        """
        mu, logvar = self.encoder(*batch.read, drop)
        z = mu + noise * (0.5 * logvar).exp()
        logits = self.decoder(batch.inputs if written is None else written, z, drop)
        kl = self.prior.kl(mu, logvar, z).mean() if self.variational else mu.new_zeros(())
        return ElboTerms(reconstruction_nats(logits, batch.targets), kl, logits, mu, logvar, z)


def untrained(vocabulary_size: int, settings: ModelSettings, seed: int) -> VAE:
    """A VAE whose first weights are a function of the seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        return VAE(vocabulary_size, settings)
