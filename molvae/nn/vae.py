"""The variational autoencoder: encoder, noise, decoder, prior. No files, no chemistry, no randomness of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from molvae.data.dataset import Batch
from molvae.data.vocabulary import SPECIAL
from molvae.nn.encoder_decoder import Decoder, Dropout, Encoder, identity
from molvae.nn.losses import compute_reconstruction_nats, reparameterise
from molvae.nn.priors import build_prior
from molvae.nn.property_head import PropertyHead
from molvae.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from molvae.config import ModelSettings


TOKEN_TENSORS = (  # with a row a token
    "encoder.embedding.weight",
    "decoder.embedding.weight",
    "decoder.state_to_logits.weight",
    "decoder.state_to_logits.bias",
    "decoder.latent_to_logits.weight",
)


class LossTerms(NamedTuple):
    """The terms of the loss, nats per molecule: scalar tensors of a batch, or numbers of a data set."""

    reconstruction: Tensor
    kl: Tensor  # 0 for a plain autoencoder
    property: Tensor  # −log density of the properties; 0 without a head, or where the batch has none

    def stack(self) -> Tensor:
        """Put the terms into one tensor, (3,)."""
        return torch.stack(tuple(self))


class VAEOutput(NamedTuple):
    """What a forward pass gives."""

    terms: LossTerms
    logits: Tensor  # (T, B, V)
    mu: Tensor  # (B, Z)
    logvar: Tensor  # (B, Z)
    z: Tensor  # (B, Z)


class VAE(nn.Module):
    """RNN encoder to N(mu, sigma²), RNN decoder, and a prior over the latent space between them.

    With `properties`, names, also a linear head that predicts these from z.
    """

    def __init__(self, vocabulary_size: int, settings: ModelSettings, properties: Sequence[str] = ()) -> None:
        super().__init__()
        self.latent_dim, self.variational = settings.latent_dim, settings.variational
        self.vocabulary_size = vocabulary_size
        self.encoder = Encoder(vocabulary_size, settings)
        self.decoder = Decoder(vocabulary_size, settings)
        self.prior = build_prior(settings.prior, settings.prior_components, self.encoder)
        self.head = PropertyHead(properties, settings.latent_dim) if properties else None

    def forward(
        self, batch: Batch, noise: Tensor, drop: Dropout = identity, decoder_inputs: Tensor | None = None
    ) -> VAEOutput:
        """Compute the ELBO terms of a batch with one draw of z a molecule.

        Args:
            batch: molecules.
            noise: (B, Z) standard normal numbers that make the draws.
            drop: dropout; only in training.
            decoder_inputs: (T, B) ids that the decoder reads as the tokens so far; None: those of the batch.
        """
        mu, logvar = self.encoder(*batch.encoder_inputs, drop)
        z = reparameterise(mu, logvar, noise)
        logits = self.decoder(batch.inputs if decoder_inputs is None else decoder_inputs, z, drop)
        reconstruction = compute_reconstruction_nats(logits, batch.targets)
        kl = self.prior.compute_kl(mu, logvar, z).mean() if self.variational else mu.new_zeros(())
        property_nats = mu.new_zeros(())
        if self.head is not None and batch.properties is not None:
            property_nats = self.head.compute_nll(z, batch.properties)
        return VAEOutput(LossTerms(reconstruction, kl, property_nats), logits, mu, logvar, z)


def init_vae(vocabulary_size: int, settings: ModelSettings, seed: int) -> VAE:
    """Initialise a VAE whose first weights are a function of the seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return VAE(vocabulary_size, settings)


@torch.no_grad()
def resize_token_embeddings(model: VAE, settings: ModelSettings, vocabulary_size: int, rows: Sequence[int]) -> VAE:
    """Make a copy of a model that knows more tokens; it treats strings of the old tokens as `model` does.

    A new token starts as the mean of all tokens that are not special: its probability is then at most the mean of
    theirs, whatever the state of the decoder, so that the old ones lose next to nothing. The new tokens, equal at
    first, diverge at the first step, because each has gradients of its own.
    Source: Hewitt 2021, "Initializing new word embeddings for pretrained language models".

    Args:
        model: a trained VAE.
        settings: those of `model`.
        vocabulary_size: tokens of the copy.
        rows: the id in the copy of each token of `model`.
    """
    state = model.state_dict()
    for name in TOKEN_TENSORS:
        old = state[name]
        state[name] = old[len(SPECIAL) :].mean(0).repeat(vocabulary_size, *[1] * (old.ndim - 1))
        state[name][list(rows)] = old
    with torch.device("meta"):
        larger = VAE(vocabulary_size, settings, model.head.names if model.head else ())
    larger.to_empty(device="cpu").load_state_dict(state)
    return larger
