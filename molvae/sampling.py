"""Writing molecules from latent points, so that sample i depends on (seed, i) and nothing else.

Indices fall into chunks of fixed size. A chunk is always decoded whole, with random numbers drawn on the CPU from
a stream of its own and with one thread, because the last bit of a matrix product depends on batch and threads.
Within a chunk, strings that have ended leave the batch, which again depends on nothing but the chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from molvae.decoding import Strings, decode_points
from molvae.seeds import generator
from molvae.vae import VAE

CHUNK = 512  # part of the contract: another size gives other molecules for the same seed


def sample_prior(
    model: VAE, start: int, stop: int, *, seed: int, temperature: float, max_tokens: int, threads: int = 1
) -> Strings:
    """Samples number start … stop − 1 from the model's prior.

    The same whatever start, stop and threads are on one kind of device.
    """

    def points(chunk: int) -> Tensor:
        with torch.inference_mode():
            return model.prior.draw(CHUNK, generator(seed, "prior", chunk))

    first, last = start // CHUNK, -(-stop // CHUNK)
    strings = _decode_chunks(model, points, range(first, last), seed, temperature, max_tokens, threads)
    return strings.rows(slice(start - first * CHUNK, stop - first * CHUNK))


def sample_at(
    model: VAE, points: Tensor, *, seed: int, temperature: float, max_tokens: int, threads: int = 1
) -> Strings:
    """One string for each of the points, (n, Z)."""
    blocks = points.split(CHUNK)
    return _decode_chunks(model, blocks.__getitem__, range(len(blocks)), seed, temperature, max_tokens, threads)


def _decode_chunks(
    model: VAE,
    points: Callable[[int], Tensor],
    chunks: range,
    seed: int,
    temperature: float,
    max_tokens: int,
    threads: int,
) -> Strings:
    """One string for each of the `points` of each chunk."""

    def one(chunk: int) -> Strings:
        z = points(chunk)
        uniforms = torch.rand((max_tokens, len(z)), generator=generator(seed, "tokens", chunk))
        return decode_points(model, z, uniforms, temperature)

    return _join(_in_threads(one, chunks, threads), max_tokens)


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
