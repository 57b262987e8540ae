"""The encoder and the decoder.

Shapes: B batch, T steps, V vocabulary, E embedding, Z latent, H hidden, L layers, S tensors of state a layer.
Time-major, (T, B, …). Padded, never packed: a packed sequence keeps the RNN from its fused kernels and costs twice
the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from molvae.nn.rnn import RNNLayer

if TYPE_CHECKING:
    from molvae.config import ModelSettings

Dropout = Callable[[Tensor], Tensor]


def apply_dropout(values: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Set a random fraction of `values` to 0 and scale the rest up. Torch's own takes its numbers from global state."""
    if not fraction:
        return values
    is_kept = torch.empty_like(values).bernoulli_(1 - fraction, generator=generator)
    return values * is_kept / (1 - fraction)


def identity(values: Tensor) -> Tensor:
    """Return the values as they are: no dropout."""
    return values


class Encoder(nn.Module):
    """RNN over a molecule's tokens; its last states give mean and log-variance of q(z|x)."""

    def __init__(self, vocabulary_size: int, settings: ModelSettings) -> None:
        super().__init__()
        hidden, directions = settings.encoder_hidden, 2 if settings.encoder_bidirectional else 1
        widths = [settings.embedding_dim] + [directions * hidden] * (settings.encoder_layers - 1)
        self.variational, self.latent_dim = settings.variational, settings.latent_dim
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_dim)
        self.layers: Sequence[Sequence[RNNLayer]] = nn.ModuleList(  # type: ignore[assignment]
            nn.ModuleList(RNNLayer(settings.encoder_cell, width, 0, hidden) for _ in range(directions))
            for width in widths
        )
        self.to_latent = nn.Linear(directions * hidden, (2 if self.variational else 1) * settings.latent_dim)

    def forward(self, tokens: Tensor, lengths: Tensor, drop: Dropout = identity) -> tuple[Tensor, Tensor]:
        """Compute the posterior of each molecule.

        Args:
            tokens: (T, B) ids, padded at the end.
            lengths: (B,) real tokens of each, at least 1.
            drop: dropout, applied between layers.

        Returns:
            mu, logvar: (B, Z) each; a plain autoencoder's posterior is the point mu: its logvar is −inf.
        """
        return self.encode_embeddings(self.embedding(tokens), lengths, drop)

    def encode_embeddings(self, inputs: Tensor, lengths: Tensor, drop: Dropout = identity) -> tuple[Tensor, Tensor]:
        """Compute the posterior of embeddings, (T, B, E), of tokens or of none; the rest as in `forward`."""
        steps = torch.arange(len(inputs), device=inputs.device)[:, None]
        mirrored = torch.where(steps < lengths, lengths - 1 - steps, steps)[..., None]  # last token first, padding last
        last = (lengths - 1)[None, :, None]
        for number, layer in enumerate(self.layers):
            if number:
                inputs = drop(inputs)
            states = [layer[0](inputs)]
            ends = [_gather_steps(states[0], last)[0]]
            if len(layer) == 2:
                backward = layer[1](_gather_steps(inputs, mirrored))
                ends.append(_gather_steps(backward, last)[0])
                states.append(_gather_steps(backward, mirrored))
            inputs = torch.cat(states, dim=-1) if len(states) == 2 else states[0]
        latent = self.to_latent(torch.cat(ends, dim=-1))
        if not self.variational:
            return latent, torch.full_like(latent, -torch.inf)
        mu, logvar = latent.chunk(2, dim=-1)
        return mu, logvar


def _gather_steps(values: Tensor, steps: Tensor) -> Tensor:
    """Values, (T, B, H), at the steps (T', B or 1, 1) of each molecule: (T', B, H)."""
    return values.gather(0, steps.expand(len(steps), *values.shape[1:]))


class Decoder(nn.Module):
    """RNN that predicts a molecule token by token; z enters at the first state, at every step and at the output."""

    def __init__(self, vocabulary_size: int, settings: ModelSettings) -> None:
        super().__init__()
        cell, hidden, latent = settings.decoder_cell, settings.decoder_hidden, settings.latent_dim
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_dim)
        self.layers: Sequence[RNNLayer] = nn.ModuleList(  # type: ignore[assignment]
            RNNLayer(cell, hidden if number else settings.embedding_dim, 0 if number else latent, hidden)
            for number in range(settings.decoder_layers)
        )
        self.state_shape = (len(self.layers), self.layers[0].state_tensors, hidden)
        self.first_state = nn.Linear(latent, len(self.layers) * self.layers[0].state_tensors * hidden)
        self.state_to_logits = nn.Linear(hidden, vocabulary_size)
        self.latent_to_logits = nn.Linear(latent, vocabulary_size, bias=False)

    def compute_first_state(self, z: Tensor) -> Tensor:
        """Compute the first state, (L, S, B, H), of molecules at the latent points `z`, (B, Z)."""
        state = torch.tanh(self.first_state(z)).unflatten(-1, self.state_shape)
        return state.permute(1, 2, 0, 3).contiguous()

    def forward(self, tokens: Tensor, z: Tensor, drop: Dropout = identity) -> Tensor:
        """Score the token that follows each of `tokens`.

        Args:
            tokens: (T, B) ids, BOS first.
            z: (B, Z) latent points.
            drop: dropout, applied to the token embeddings, between layers and to the input of the output layer.

        Returns:
            logits: (T, B, V), unnormalised.
        """
        states: Tensor = self.embedding(tokens)
        constant: Tensor | None = z
        for layer, first_state in zip(self.layers, self.compute_first_state(z), strict=True):
            states, constant = layer(drop(states), first_state, constant), None
        logits: Tensor = self.state_to_logits(drop(states)) + self.latent_to_logits(z)
        return logits


class StepDecoder:
    """The decoder a step at a time; what is the same at each step is computed once.

    Its rows are molecules; `keep_rows` drops finished ones.
    """

    def __init__(self, decoder: Decoder, z: Tensor, forbidden: Sequence[int] = ()) -> None:
        """Start at latent points.

        Args:
            decoder: that of a VAE.
            z: (B, Z) latent points.
            forbidden: ids of tokens that never follow.
        """
        self.decoder = decoder
        self.first_layer = decoder.layers[0]
        self.token_gates = self.first_layer.project(decoder.embedding.weight)  # (V, G): a token's part of the gates
        self.latent_gates = self.first_layer.project_constant(z)  # (B, G): the latent point's part
        self.latent_logits = decoder.latent_to_logits(z) + decoder.state_to_logits.bias  # (B, V)
        self.latent_logits[:, list(forbidden)] = -torch.inf
        self.state = decoder.compute_first_state(z)  # (L, S, B, H)

    def step(self, tokens: Tensor) -> Tensor:
        """Compute the logits, (B, V), of the tokens that follow `tokens`, (B,)."""
        gates = self.token_gates[tokens] + self.latent_gates
        states: list[Tensor] = []
        for number, layer in enumerate(self.decoder.layers):
            if number:
                gates = layer.project(states[-1][0])
            states.append(layer.step(gates, self.state[number]))
        self.state = torch.stack(states)
        return torch.addmm(self.latent_logits, states[-1][0], self.decoder.state_to_logits.weight.t())

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.latent_gates, self.latent_logits = self.latent_gates[rows], self.latent_logits[rows]
        self.state = self.state[:, :, rows]
