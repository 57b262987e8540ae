"""The variational autoencoder: encoder, noise, decoder. No files, no chemistry."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from molvae.dataset import Batch
from molvae.networks import Decoder, Encoder, dropout
from molvae.objective import kl_nats, reconstruction_nats
from molvae.seeds import derive

if TYPE_CHECKING:
    from molvae.config import ModelSettings


class ElboTerms(NamedTuple):
    """What a forward pass gives: the two terms in nats per molecule, and what they were made of."""

    reconstruction: Tensor
    kl: Tensor
    logits: Tensor  # (T, B, V)
    mu: Tensor  # (B, Z)
    logvar: Tensor  # (B, Z)


class VAE(nn.Module):
    """RNN encoder to N(mu, sigma²), RNN decoder, standard normal prior."""

    def __init__(self, vocabulary_size: int, settings: ModelSettings) -> None:
        super().__init__()
        self.latent_dim = settings.latent_dim
        self.vocabulary_size = vocabulary_size
        self.encoder = Encoder(vocabulary_size, settings)
        self.decoder = Decoder(vocabulary_size, settings)

    def forward(self, batch: Batch, generator: torch.Generator, dropped: float = 0.0) -> ElboTerms:
        """ELBO terms of a batch with one draw of z a molecule, its noise taken from `generator`.

        Args:
            dropped: fraction of the decoder's inputs and outputs to drop; only in training.
        """
        mu, logvar = self.encoder(batch.inputs[1:], batch.lengths)
        noise = torch.randn(mu.shape, generator=generator, device=mu.device)
        z = mu + noise * (0.5 * logvar).exp()
        drop = partial(dropout, fraction=dropped, generator=generator)
        logits, _ = self.decoder(batch.inputs, z, self.decoder.start(z), drop)
        return ElboTerms(reconstruction_nats(logits, batch.targets), kl_nats(mu, logvar), logits, mu, logvar)


def untrained(vocabulary_size: int, settings: ModelSettings, seed: int) -> VAE:
    """A VAE whose first weights are a function of the seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        return VAE(vocabulary_size, settings)
