"""The encoder and the decoder.

Shapes: B batch, T steps, V vocabulary, E embedding, Z latent, H hidden, L layers. Time-major, (T, B, …).
Padded, never packed: a packed sequence keeps the RNN from its fused kernels and costs twice the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from molvae.config import ModelSettings


def dropout(values: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Set a random fraction of `values` to 0 and scale the rest up. Torch's own takes its numbers from global state."""
    if not fraction:
        return values
    kept = torch.empty_like(values).bernoulli_(1 - fraction, generator=generator)
    return values * kept / (1 - fraction)


class Encoder(nn.Module):
    """GRU over a molecule's tokens; its state at the last real token gives mean and log-variance of q(z|x)."""

    def __init__(self, vocabulary_size: int, settings: ModelSettings) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_dim)
        self.rnn = nn.GRU(settings.embedding_dim, settings.encoder_hidden)
        self.to_latent = nn.Linear(settings.encoder_hidden, 2 * settings.latent_dim)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of each molecule.

        Args:
            tokens: (T, B) ids, padded at the end.
            lengths: (B,) real tokens of each, at least 1.
        Returns:
            mu, logvar: (B, Z) each.
        """
        states, _ = self.rnn(self.embedding(tokens))  # (T, B, H)
        last = states[lengths - 1, torch.arange(len(lengths), device=lengths.device)]  # (B, H)
        mu, logvar = self.to_latent(last).chunk(2, dim=-1)
        return mu, logvar


class Decoder(nn.Module):
    """GRU that writes a molecule token by token; z enters at the first state, at every step and at the output."""

    def __init__(self, vocabulary_size: int, settings: ModelSettings) -> None:
        super().__init__()
        self.layers, self.hidden = settings.decoder_layers, settings.decoder_hidden
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_dim)
        self.rnn = nn.GRU(settings.embedding_dim + settings.latent_dim, self.hidden, self.layers)
        self.first_state = nn.Linear(settings.latent_dim, self.layers * self.hidden)
        self.state_to_logits = nn.Linear(self.hidden, vocabulary_size)
        self.latent_to_logits = nn.Linear(settings.latent_dim, vocabulary_size, bias=False)

    def start(self, z: Tensor) -> Tensor:
        """First state, (L, B, H), of molecules at the latent points `z`, (B, Z)."""
        return torch.tanh(self.first_state(z)).unflatten(-1, (self.layers, self.hidden)).transpose(0, 1).contiguous()

    def forward(
        self, tokens: Tensor, z: Tensor, state: Tensor, drop: Callable[[Tensor], Tensor] = lambda values: values
    ) -> tuple[Tensor, Tensor]:
        """Scores of the token that follows each of `tokens`.

        Args:
            tokens: (T, B) ids; T is 1 when sampling.
            z: (B, Z) latent points.
            state: (L, B, H) state before the first of the tokens.
            drop: dropout, applied to the token embeddings and to what the output layer reads.
        Returns:
            logits: (T, B, V), unnormalised; and the state after the last token, (L, B, H).
        """
        inputs = torch.cat([drop(self.embedding(tokens)), z.expand(len(tokens), *z.shape)], dim=-1)
        states, state = self.rnn(inputs, state)
        return self.state_to_logits(drop(states)) + self.latent_to_logits(z), state
