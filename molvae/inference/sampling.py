"""Writing molecules from latent points, so that sample i depends on (seed, i) and nothing else.

Indices fall into chunks of fixed size, with random numbers drawn on the CPU from a stream of their own. A batch is a
chunk, on a GPU several; it is always decoded whole and with one thread, because the last bit of a matrix product
depends on batch and threads. Within a batch, strings that have ended leave, which again depends on nothing but the
batch. Strings that are not accepted are written again, from other latent points: those of a batch together.

A string may be read by the encoder and written again from a draw of its posterior, some rounds long: a Markov chain
whose first state comes from the prior, and whose stationary distribution is that of the data as far as encoder and
decoder fit together. Where the prior and the aggregate posterior differ, it goes from the one to the other.
Sources: Rezende et al. 2014 (arXiv:1401.4082), appendix F; Bengio et al. 2013 (arXiv:1305.6663) on where it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from molvae.data.vocabulary import EOS, PAD
from molvae.inference import conditioning
from molvae.inference.decoding import Strings, decode_points
from molvae.nn.losses import reparameterised
from molvae.nn.vae import VAE
from molvae.runtime.seeds import generator

CHUNK = 512  # part of the contract: another size gives other molecules for the same seed
BATCH_CHUNKS = {"cuda": 16}  # of other devices 1. Part of the contract, too: a GPU is idle over a single chunk


Points = Callable[[int, int], Tensor]  # (chunk, attempt) -> latent points of the chunk's strings, (CHUNK or fewer, Z)
Accept = Callable[[Strings], np.ndarray]  # whether each string is to be kept, (n,) bool


@dataclass(frozen=True)
class Samples(Strings):
    """Strings, and what it took to get them.

    Attributes:
        attempts: (n,) strings written for each, the one that is here last.
        accepted: (n,) whether that one was accepted; false where the attempts ran out.
    """

    attempts: np.ndarray
    accepted: np.ndarray

    def rows(self, which: slice) -> Samples:
        """Some of the samples."""
        return Samples(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def sample_prior(
    model: VAE,
    start: int,
    stop: int,
    *,
    seed: int,
    temperature: float,
    max_tokens: int,
    threads: int = 1,
    accept: Accept | None = None,
    attempts: int = 1,
    rounds: int = 0,
    wanted: Mapping[str, float] | None = None,
) -> Samples:
    """Samples number start … stop − 1 from the model's prior.

    The same whatever start, stop and threads are on one kind of device. See `sample_from` for accept, attempts, rounds.

    Args:
        wanted: values by name that properties are to have, see `molvae.inference.conditioning`.
    """
    if wanted:
        conditioning.check(model, wanted)

    def points(chunk: int, attempt: int) -> Tensor:
        stream = _stream(seed, "prior", chunk, attempt)
        if wanted:
            return conditioning.draw(model, wanted, CHUNK, stream)
        with torch.inference_mode():
            return model.prior.draw(CHUNK, stream)

    together = _chunks_together(model)
    first, last = start // (CHUNK * together) * together, -(-stop // (CHUNK * together)) * together
    samples = sample_from(
        model, points, range(first, last), seed=seed, temperature=temperature, max_tokens=max_tokens, threads=threads,
        accept=accept, attempts=attempts, rounds=rounds,
    )  # fmt: skip
    return samples.rows(slice(start - first * CHUNK, stop - first * CHUNK))


def sample_at(
    model: VAE, points: Tensor, *, seed: int, temperature: float, max_tokens: int, threads: int = 1
) -> Samples:
    """One string for each of the points, (n, Z)."""
    blocks = points.split(CHUNK)
    return sample_from(
        model, lambda chunk, attempt: blocks[chunk], range(len(blocks)), seed=seed, temperature=temperature,
        max_tokens=max_tokens, threads=threads,
    )  # fmt: skip


def sample_from(
    model: VAE,
    points: Points,
    chunks: range,
    *,
    seed: int,
    temperature: float,
    max_tokens: int,
    threads: int = 1,
    accept: Accept | None = None,
    attempts: int = 1,
    rounds: int = 0,
) -> Samples:
    """One string for each of the `points` of each chunk.

    Args:
        accept: strings that it does not take are written again, from the points and random numbers of the next attempt.
        attempts: at most so many; the last one stays, taken or not.
        rounds: how often a string is read by the encoder and written again from there before it is looked at.
    """

    together = _chunks_together(model)
    batches = [chunks[at : at + together] for at in range(0, len(chunks), together)]
    size = CHUNK * together

    def write(batch: range, attempt: int, rows: np.ndarray | slice = slice(None)) -> Strings:
        starts = [points(chunk, attempt) for chunk in batch]
        z, counts = torch.cat(starts)[rows], [len(some) for some in starts]

        def random(draw: Callable[..., Tensor], purpose: str, width: int, turn: int) -> Tensor:
            streams = [_stream(seed, purpose, chunk, attempt, turn) for chunk in batch]
            drawn = [draw((width, n), generator=one) for n, one in zip(counts, streams, strict=True)]
            return torch.cat(drawn, dim=1)[:, rows]

        strings = decode_points(model, z, random(torch.rand, "tokens", max_tokens, 0), temperature)
        for turn in range(1, rounds + 1):
            mu, logvar = _read(model, strings)
            noise = random(torch.randn, "posterior", model.latent_dim, turn).T.to(mu.device)
            z = reparameterised(mu, logvar, noise)
            strings = decode_points(model, z, random(torch.rand, "tokens", max_tokens, turn), temperature)
        return strings

    def rewrite(attempt: int, rows: np.ndarray) -> Strings:
        return write(batches[rows[0] // size], attempt, rows % size)

    strings = _join(_in_threads(lambda batch: write(batch, 0), batches, threads), max_tokens)
    tried, accepted = np.ones(len(strings.ids), np.int64), np.ones(len(strings.ids), bool)
    if accept is not None:
        accepted = accept(strings)
        for attempt in range(1, attempts):
            left = np.flatnonzero(~accepted)
            if not len(left):
                break
            of_batch = np.split(left, np.flatnonzero(np.diff(left // size)) + 1)
            again = _join(_in_threads(partial(rewrite, attempt), of_batch, threads), max_tokens)
            for name in ("ids", "log_probability", "finished"):
                getattr(strings, name)[left] = getattr(again, name)
            tried[left] += 1
            accepted[left] = accept(again)
    return Samples(strings.ids, strings.log_probability, strings.finished, tried, accepted)


def _chunks_together(model: VAE) -> int:
    return BATCH_CHUNKS.get(next(model.parameters()).device.type, 1)


def _stream(seed: int, purpose: str, chunk: int, attempt: int, turn: int = 0) -> torch.Generator:
    """A generator for a chunk's attempt; that of the first does not depend on how many may follow."""
    return generator(seed, purpose, chunk, *((attempt, turn) if turn else (attempt,) if attempt else ()))


@torch.inference_mode()
def _read(model: VAE, strings: Strings) -> tuple[Tensor, Tensor]:
    """Posterior, (n, Z) each, of decoded strings; one without tokens is read as its end."""
    device = next(model.parameters()).device
    ids = torch.from_numpy(strings.ids.T).to(device)
    lengths = ((ids != EOS) & (ids != PAD)).sum(0).clamp(min=1)
    mu, logvar = model.encoder(ids, lengths)
    return mu, logvar


def _in_threads(work: Callable[[Any], Strings], items: Sequence[Any], threads: int) -> Iterator[Strings]:
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
