"""The variational autoencoder: encoder, noise, decoder, prior. No files, no chemistry, no randomness of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from molvae.data.dataset import Batch
from molvae.data.vocabulary import SPECIAL
from molvae.nn.encoder_decoder import Decoder, Drop, Encoder, keep
from molvae.nn.losses import reconstruction_nats, reparameterised
from molvae.nn.priors import make_prior
from molvae.nn.property_head import PropertyHead
from molvae.runtime.seeds import derive

if TYPE_CHECKING:
    from molvae.config import ModelSettings


TOKEN_ROWS = (  # tensors with a row a token
    "encoder.embedding.weight",
    "decoder.embedding.weight",
    "decoder.state_to_logits.weight",
    "decoder.state_to_logits.bias",
    "decoder.latent_to_logits.weight",
)


class ElboTerms(NamedTuple):
    """What a forward pass gives: its terms in nats per molecule, and what they were made of."""

    reconstruction: Tensor
    kl: Tensor  # 0 for a plain autoencoder
    property: Tensor  # −log density of the properties; 0 without a head, or where the batch has none
    logits: Tensor  # (T, B, V)
    mu: Tensor  # (B, Z)
    logvar: Tensor  # (B, Z)
    z: Tensor  # (B, Z)


class VAE(nn.Module):
    """RNN encoder to N(mu, sigma²), RNN decoder, and a prior over the latent space between them.

    With `properties`, names, also a linear head that tells these from z.
    """

    def __init__(self, vocabulary_size: int, settings: ModelSettings, properties: Sequence[str] = ()) -> None:
        super().__init__()
        self.latent_dim, self.variational = settings.latent_dim, settings.variational
        self.vocabulary_size = vocabulary_size
        self.encoder = Encoder(vocabulary_size, settings)
        self.decoder = Decoder(vocabulary_size, settings)
        self.prior = make_prior(settings.prior, settings.prior_components, self.encoder)
        self.head = PropertyHead(properties, settings.latent_dim) if properties else None

    def forward(self, batch: Batch, noise: Tensor, drop: Drop = keep, written: Tensor | None = None) -> ElboTerms:
        """ELBO terms of a batch with one draw of z a molecule.

        Args:
            noise: (B, Z) standard normal numbers that make the draws.
            drop: dropout; only in training.
            written: (T, B) ids that the decoder is told to have written so far; None: those of the batch.
        """
        mu, logvar = self.encoder(*batch.read, drop)
        z = reparameterised(mu, logvar, noise)
        logits = self.decoder(batch.inputs if written is None else written, z, drop)
        kl = self.prior.kl(mu, logvar, z).mean() if self.variational else mu.new_zeros(())
        told = self.head is not None and batch.values is not None
        property_nats = self.head.nats(z, batch.values) if told else mu.new_zeros(())
        return ElboTerms(reconstruction_nats(logits, batch.targets), kl, property_nats, logits, mu, logvar, z)


def untrained(vocabulary_size: int, settings: ModelSettings, seed: int) -> VAE:
    """A VAE whose first weights are a function of the seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        return VAE(vocabulary_size, settings)


@torch.no_grad()
def extended(model: VAE, settings: ModelSettings, vocabulary_size: int, rows: Sequence[int]) -> VAE:
    """`model` with more tokens; what it makes of strings of its own tokens is the same but for the new ones' share.

    A new token starts as the mean of all tokens that are not special: its probability is then at most the mean of
    theirs, whatever the state of the decoder, so that the old ones lose next to nothing. Equal rows part at the first
    step, because each has gradients of its own.
    Source: Hewitt 2021, "Initializing new word embeddings for pretrained language models".

    Args:
        settings: of `model`.
        rows: the id in the new model of each token of `model`.
    """
    state = model.state_dict()
    for name in TOKEN_ROWS:
        old = state[name]
        state[name] = old[len(SPECIAL) :].mean(0).repeat(vocabulary_size, *[1] * (old.ndim - 1))
        state[name][list(rows)] = old
    with torch.device("meta"):
        larger = VAE(vocabulary_size, settings, model.head.names if model.head else ())
    larger.to_empty(device="cpu").load_state_dict(state)
    return larger
