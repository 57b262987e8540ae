"""Writing molecules from latent points, so that sample i depends on (seed, i) and nothing else.

Indices fall into chunks of fixed size. A chunk is always decoded whole, with random numbers drawn on the CPU from
a stream of its own and with one thread, because the last bit of a matrix product depends on batch and threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from molvae.seeds import generator
from molvae.vae import VAE
from molvae.vocabulary import BOS, EOS, PAD, UNK

CHUNK = 512  # part of the contract: another size gives other molecules for the same seed


@dataclass(frozen=True)
class Strings:
    """Decoded token strings, one a row.

    Attributes:
        ids: (n, T) int64, EOS and then PAD behind each string.
        log_probability: (n,) nats, log p(string | z) of the model itself (temperature 1).
        finished: (n,) whether EOS came before the limit of tokens.
    """

    ids: np.ndarray
    log_probability: np.ndarray
    finished: np.ndarray


def sample_prior(
    model: VAE, start: int, stop: int, *, seed: int, temperature: float, max_tokens: int, threads: int = 1
) -> Strings:
    """Samples number start … stop − 1 from the standard normal prior.

    The same whatever start, stop and threads are on one kind of device.
    """

    def one(chunk: int) -> Strings:
        z = torch.randn((CHUNK, model.latent_dim), generator=generator(seed, "prior", chunk))
        uniforms = torch.rand((max_tokens, CHUNK), generator=generator(seed, "tokens", chunk))
        return decode_points(model, z, uniforms, temperature)

    first, last = start // CHUNK, -(-stop // CHUNK)
    strings = _join(_in_threads(one, range(first, last), threads), max_tokens)
    cut = slice(start - first * CHUNK, stop - first * CHUNK)
    return Strings(strings.ids[cut], strings.log_probability[cut], strings.finished[cut])


@torch.inference_mode()
def decode_points(model: VAE, z: Tensor, uniforms: Tensor, temperature: float) -> Strings:
    """Write one string a latent point.

    Args:
        z: (B, Z) latent points.
        uniforms: (T, B) numbers in [0, 1) that choose the tokens; T is the limit of tokens.
        temperature: divides the logits; 0 takes the likeliest token instead.
    """
    device = next(model.parameters()).device
    z, uniforms = z.to(device), uniforms.to(device)
    limit, count = uniforms.shape
    ids = torch.full((limit, count), PAD, device=device)
    log_probability = torch.zeros(count, device=device, dtype=torch.float64)
    running = torch.ones(count, dtype=torch.bool, device=device)
    token = torch.full((count,), BOS, device=device)
    state = model.decoder.start(z)
    for step in range(limit):
        logits, state = model.decoder(token[None], z, state)
        logits = logits[0].float()
        logits[:, [PAD, BOS, UNK]] = -torch.inf  # these are never written
        token = _choose(logits, uniforms[step], temperature)
        token = torch.where(running, token, PAD)
        gained = logits.log_softmax(-1).gather(1, token[:, None])[:, 0]
        log_probability += torch.where(running, gained, 0.0)
        ids[step] = token
        running &= token != EOS
        if not running.any():
            break
    return Strings(ids.T.cpu().numpy(), log_probability.cpu().numpy(), (~running).cpu().numpy())


def _choose(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """One token a row, by inverse transform of the row's own uniform number."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits / temperature).softmax(-1).cumsum(-1)
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    return chosen.clamp_(max=logits.shape[-1] - 1)


def _in_threads(work: Callable[[int], Strings], items: range, threads: int) -> Iterator[Strings]:
    """`work` on each item, in order, with one kernel thread each and `threads` at a time."""
    with _one_kernel_thread():
        if threads == 1 or len(items) == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, items)


@contextmanager
def _one_kernel_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _join(parts: Iterator[Strings], width: int) -> Strings:
    nothing = Strings(np.empty((0, width), np.int64), np.empty(0), np.empty(0, bool))  # a share may have no sample
    parts = [nothing, *parts]
    ids = np.concatenate([np.pad(part.ids, ((0, 0), (0, width - part.ids.shape[1]))) for part in parts])
    return Strings(ids, np.concatenate([p.log_probability for p in parts]), np.concatenate([p.finished for p in parts]))
