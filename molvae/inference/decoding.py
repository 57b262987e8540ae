"""Decoding one string a latent point.

Training measures itself by it; how samples are drawn is another module, so that a change there re-trains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from molvae.data.vocabulary import BOS, EOS, PAD, UNK
from molvae.nn.encoder_decoder import StepDecoder
from molvae.nn.vae import VAE

COMPACT_STEPS = 4  # between looks at how many strings have ended: each look makes a GPU wait


@dataclass(frozen=True)
class TokenStrings:
    """Decoded token strings, one a row.

    Attributes:
        ids: (n, T) int64, EOS and then PAD behind each string.
        log_probability: (n,) nats, log p(string | z) of the model itself (temperature 1).
        finished: (n,) whether EOS came before the limit of tokens.
    """

    ids: np.ndarray
    log_probability: np.ndarray
    finished: np.ndarray


@torch.inference_mode()
def decode_latents(model: VAE, z: Tensor, uniforms: Tensor, temperature: float) -> TokenStrings:
    """Decode one string a latent point.

    Args:
        model: a VAE.
        z: (B, Z) latent points.
        uniforms: (T, B) numbers in [0, 1) that choose the tokens; T is the limit of tokens.
        temperature: divides the logits; 0 takes the likeliest token instead.
    """
    device = next(model.parameters()).device
    z, uniforms = z.to(device), uniforms.to(device)
    limit, count = uniforms.shape
    decoder = StepDecoder(model.decoder, z, forbidden=(PAD, BOS, UNK))
    ids = torch.full((limit, count), PAD, device=device)
    log_probability = torch.zeros(count, device=device, dtype=torch.float64)
    rows = torch.arange(count, device=device)  # where the strings still in the batch stand in the result
    is_running = torch.ones(count, dtype=torch.bool, device=device)
    token = torch.full((count,), BOS, device=device)
    for step in range(limit):
        logits = decoder.step(token)
        token = torch.where(is_running, _choose_tokens(logits, uniforms[step, rows], temperature), PAD)
        token_log_probability = logits.log_softmax(-1).gather(1, token[:, None])[:, 0]
        log_probability[rows] += torch.where(is_running, token_log_probability, 0.0)
        ids[step, rows] = token
        is_running &= token != EOS
        if step % COMPACT_STEPS == COMPACT_STEPS - 1:
            left = is_running.nonzero()[:, 0]
            if not len(left):
                break
            if len(left) < len(rows):
                decoder.keep_rows(left)
                rows, token, is_running = rows[left], token[left], is_running[left]
    finished = (ids == EOS).any(0)
    used = int((ids != PAD).any(1).sum())
    return TokenStrings(ids[:used].T.cpu().numpy(), log_probability.cpu().numpy(), finished.cpu().numpy())


def _choose_tokens(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """One token a row, by inverse transform of the row's own uniform number."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits / temperature).softmax(-1).cumsum(-1)
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    return chosen.clamp_(max=logits.shape[-1] - 1)
