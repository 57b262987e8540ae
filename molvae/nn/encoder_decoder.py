"""The encoder and the decoder.

Shapes: B batch, T steps, V vocabulary, E embedding, Z latent, H hidden, L layers, S tensors of state a layer.
Time-major, (T, B, …). Padded, never packed: a packed sequence keeps the RNN from its fused kernels and costs twice
the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from molvae.nn.rnn import Layer

if TYPE_CHECKING:
    from molvae.config import ModelSettings

Drop = Callable[[Tensor], Tensor]


def dropout(values: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Set a random fraction of `values` to 0 and scale the rest up. Torch's own takes its numbers from global state."""
    if not fraction:
        return values
    kept = torch.empty_like(values).bernoulli_(1 - fraction, generator=generator)
    return values * kept / (1 - fraction)


def keep(values: Tensor) -> Tensor:
    """No dropout."""
    return values


class Encoder(nn.Module):
    """RNN over a molecule's tokens; its last states give mean and log-variance of q(z|x)."""

    def __init__(self, vocabulary_size: int, settings: ModelSettings) -> None:
        super().__init__()
        hidden, directions = settings.encoder_hidden, 2 if settings.encoder_bidirectional else 1
        widths = [settings.embedding_dim] + [directions * hidden] * (settings.encoder_layers - 1)
        self.variational, self.latent_dim = settings.variational, settings.latent_dim
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(Layer(settings.encoder_cell, width, 0, hidden) for _ in range(directions)) for width in widths
        )
        self.to_latent = nn.Linear(directions * hidden, (2 if self.variational else 1) * settings.latent_dim)

    def forward(self, tokens: Tensor, lengths: Tensor, drop: Drop = keep) -> tuple[Tensor, Tensor]:
        """Posterior of each molecule.

        Args:
            tokens: (T, B) ids, padded at the end.
            lengths: (B,) real tokens of each, at least 1.
            drop: dropout, applied between layers.
        Returns:
            mu, logvar: (B, Z) each; a plain autoencoder's posterior is the point mu: its logvar is −inf.
        """
        return self.read(self.embedding(tokens), lengths, drop)

    def read(self, inputs: Tensor, lengths: Tensor, drop: Drop = keep) -> tuple[Tensor, Tensor]:
        """The same for embeddings, (T, B, E), of tokens or of what is none."""
        steps = torch.arange(len(inputs), device=inputs.device)[:, None]
        mirrored = torch.where(steps < lengths, lengths - 1 - steps, steps)[..., None]  # last token first, padding last
        last = (lengths - 1)[None, :, None]
        for number, layer in enumerate(self.layers):
            if number:
                inputs = drop(inputs)
            states = [layer[0](inputs)]
            ends = [_at(states[0], last)[0]]
            if len(layer) == 2:
                backward = layer[1](_at(inputs, mirrored))
                ends.append(_at(backward, last)[0])
                states.append(_at(backward, mirrored))
            inputs = torch.cat(states, dim=-1) if len(states) == 2 else states[0]
        latent = self.to_latent(torch.cat(ends, dim=-1))
        if not self.variational:
            return latent, torch.full_like(latent, -torch.inf)
        mu, logvar = latent.chunk(2, dim=-1)
        return mu, logvar


def _at(values: Tensor, steps: Tensor) -> Tensor:
    """Values, (T, B, H), at the steps (T', B or 1, 1) of each molecule: (T', B, H)."""
    return values.gather(0, steps.expand(len(steps), *values.shape[1:]))


class Decoder(nn.Module):
    """RNN that writes a molecule token by token; z enters at the first state, at every step and at the output."""

    def __init__(self, vocabulary_size: int, settings: ModelSettings) -> None:
        super().__init__()
        cell, hidden, latent = settings.decoder_cell, settings.decoder_hidden, settings.latent_dim
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_dim)
        self.layers = nn.ModuleList(
            Layer(cell, hidden if number else settings.embedding_dim, 0 if number else latent, hidden)
            for number in range(settings.decoder_layers)
        )
        self.state_shape = (len(self.layers), self.layers[0].state_tensors, hidden)
        self.first_state = nn.Linear(latent, len(self.layers) * self.layers[0].state_tensors * hidden)
        self.state_to_logits = nn.Linear(hidden, vocabulary_size)
        self.latent_to_logits = nn.Linear(latent, vocabulary_size, bias=False)

    def start(self, z: Tensor) -> Tensor:
        """First state, (L, S, B, H), of molecules at the latent points `z`, (B, Z)."""
        return torch.tanh(self.first_state(z)).unflatten(-1, self.state_shape).permute(1, 2, 0, 3).contiguous()

    def forward(self, tokens: Tensor, z: Tensor, drop: Drop = keep) -> Tensor:
        """Scores of the token that follows each of `tokens`.

        Args:
            tokens: (T, B) ids, BOS first.
            z: (B, Z) latent points.
            drop: dropout, applied to the token embeddings, between layers and to what the output layer reads.
        Returns:
            logits: (T, B, V), unnormalised.
        """
        states, constant = self.embedding(tokens), z
        for layer, first in zip(self.layers, self.start(z), strict=True):
            states, constant = layer(drop(states), first, constant), None
        return self.state_to_logits(drop(states)) + self.latent_to_logits(z)


class Writer:
    """The decoder a step at a time: what it does not learn anew at each step is computed once.

    Its rows are molecules; `keep_rows` lets finished ones go.
    """

    def __init__(self, decoder: Decoder, z: Tensor) -> None:
        self.decoder = decoder
        self.table = decoder.layers[0].project(decoder.embedding.weight)  # (V, G): a token's part of the gates
        self.gates = decoder.layers[0].project_constant(z)  # (B, G): the latent point's part
        self.logits = decoder.latent_to_logits(z) + decoder.state_to_logits.bias  # (B, V)
        self.state = decoder.start(z)  # (L, S, B, H)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits, (B, V), of what follows `tokens`, (B,)."""
        gates = self.table[tokens] + self.gates
        states = []
        for number, layer in enumerate(self.decoder.layers):
            if number:
                gates = layer.project(states[-1][0])
            states.append(layer.step(gates, self.state[number]))
        self.state = torch.stack(states)
        return torch.addmm(self.logits, states[-1][0], self.decoder.state_to_logits.weight.t())

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.gates, self.logits, self.state = self.gates[rows], self.logits[rows], self.state[:, :, rows]
