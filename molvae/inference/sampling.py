"""Sampling strings from latent points, so that sample i depends on (seed, i) and nothing else.

Indices fall into chunks of fixed size, with random numbers drawn on the CPU from a stream of their own. A batch is a
chunk, on a GPU several; it is always decoded whole and with one thread, because the last bit of a matrix product
depends on batch and threads. Within a batch, finished strings are dropped, which again depends on nothing but the
batch.

Rejection sampling: strings that are not accepted are decoded again, from other points, those of a batch together.

MCMC: a string may be encoded, and decoded again from a draw of its posterior, some steps long. That is a Markov chain
whose first state comes from the prior, and whose stationary distribution is that of the data as far as encoder and
decoder fit together. Where the prior and the aggregate posterior differ, it moves from the one to the other.
Sources: Rezende et al. 2014 (arXiv:1401.4082), appendix F; Bengio et al. 2013 (arXiv:1305.6663) on where it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from molvae.data.vocabulary import EOS, PAD
from molvae.inference.conditioning import check_targets, sample_conditioned
from molvae.inference.decoding import TokenStrings, decode_latents
from molvae.nn.losses import reparameterise
from molvae.nn.vae import VAE
from molvae.runtime.seeds import make_generator

if TYPE_CHECKING:
    from molvae.config import SampleSettings

CHUNK_SIZE = 512  # part of the contract: another size gives other molecules for the same seed
CHUNKS_PER_BATCH = {"cuda": 16}  # of other devices 1. Part of the contract, too: a GPU is idle over a single chunk
RANDOM_TOKENS = 128  # tokens of a string whose random numbers `decode_points` takes from one stream

log = logging.getLogger(__name__)
Item = TypeVar("Item")
LatentSource = Callable[
    [int, int], Tensor
]  # (chunk, attempt) -> latent points of its strings, (CHUNK_SIZE or fewer, Z)
AcceptFunction = Callable[[TokenStrings], np.ndarray]  # whether each string is to be kept, (n,) bool


@dataclass(frozen=True)
class SamplingOptions:
    """How strings are sampled.

    Attributes:
        seed: sample i depends on (seed, i) only.
        temperature: divides the logits; 0 takes the likeliest token instead.
        max_tokens: longest string, its end counted; longer ones are cut.
        max_tries: strings decoded at most for a sample until one is accepted; the last one stays, accepted or not.
        mcmc_steps: how often a string is encoded and decoded again before it is tested.
        target_properties: values by name, see `molvae.inference.conditioning`; none: any molecules.
        threads: strings are decoded in so many at a time; the result does not depend on it.
    """

    seed: int = 0
    temperature: float = 1.0
    max_tokens: int = 128
    max_tries: int = 1
    mcmc_steps: int = 0
    target_properties: Mapping[str, float] = field(default_factory=dict)
    threads: int = 1

    @classmethod
    def from_settings(cls, settings: SampleSettings, max_tokens: int, threads: int = 1) -> SamplingOptions:
        """Take the options from the section `sample` of the config.

        Args:
            settings: of the section.
            max_tokens: of the model, where the section names none.
            threads: of the CPU.
        """
        return cls(
            settings.seed, settings.temperature, settings.max_tokens or max_tokens, settings.max_tries,
            settings.mcmc_steps, settings.target_properties, threads,
        )  # fmt: skip


@dataclass(frozen=True)
class Samples(TokenStrings):
    """Strings, and what it took to get them.

    Attributes:
        tries: (n,) strings decoded for each, the one that is here last.
        accepted: (n,) whether that one was accepted; false where the tries ran out.
    """

    tries: np.ndarray
    accepted: np.ndarray

    def take(self, rows: slice) -> Samples:
        """Take some of the samples."""
        return Samples(
            self.ids[rows], self.log_probability[rows], self.finished[rows], self.tries[rows], self.accepted[rows]
        )


def sample_prior(
    model: VAE, start: int, stop: int, options: SamplingOptions, accept: AcceptFunction | None = None
) -> Samples:
    """Draw samples number start … stop − 1 from the model's prior.

    The same whatever start, stop and threads are on one kind of device.

    Args:
        model: a VAE.
        start: index of the first sample.
        stop: index behind the last sample.
        options: how to sample.
        accept: strings that it refuses are drawn again; None accepts all.

    Raises:
        MolvaeError: the model cannot be asked for the target properties.
    """
    targets = options.target_properties
    if targets:
        check_targets(model, targets)

    def draw_points(chunk: int, attempt: int) -> Tensor:
        stream = _make_stream(options.seed, "prior", chunk, attempt)
        if targets:
            return sample_conditioned(model, targets, CHUNK_SIZE, stream)
        with torch.inference_mode():
            return model.prior.sample(CHUNK_SIZE, stream)

    per_batch = _get_chunks_per_batch(model)
    first = start // (CHUNK_SIZE * per_batch) * per_batch
    last = -(-stop // (CHUNK_SIZE * per_batch)) * per_batch
    samples = sample_chunks(model, draw_points, range(first, last), options, accept)
    return samples.take(slice(start - first * CHUNK_SIZE, stop - first * CHUNK_SIZE))


def sample_at_points(model: VAE, points: Tensor, options: SamplingOptions) -> Samples:
    """Decode one string for each of the points, (n, Z)."""
    chunks = points.split(CHUNK_SIZE)
    return sample_chunks(model, lambda chunk, attempt: chunks[chunk], range(len(chunks)), options)


def decode_points(model: VAE, z: np.ndarray, max_tokens: int, temperature: float, seed: int) -> Iterator[TokenStrings]:
    """Decode one string for each latent point, batch by batch.

    The i-th string depends on the i-th point, i and the seed only; up to where it is cut, not on `max_tokens`.

    Args:
        model: a VAE.
        z: (n, latent_dim) float32 points.
        max_tokens: longest string, its end counted; longer ones are cut.
        temperature: 0 takes the likeliest token at each step; above, tokens are drawn.
        seed: of the tokens.
    """
    n_streams = -(-max_tokens // RANDOM_TOKENS)
    streams = [make_generator(seed, "decode", *([part] if part else [])) for part in range(n_streams)]
    for start in range(0, len(z), CHUNK_SIZE):
        points = torch.from_numpy(z[start : start + CHUNK_SIZE])
        parts = [torch.rand((CHUNK_SIZE, RANDOM_TOKENS), generator=stream) for stream in streams]
        uniforms = torch.cat(parts, dim=1)[: len(points), :max_tokens].T  # of a point, however many follow it
        yield decode_latents(model, points, uniforms, temperature)


def warn_of_cut_strings(n_cut: int, n: int, max_tokens: int, setting: str = "max_tokens") -> None:
    """Warn if strings were cut.

    Args:
        n_cut: how many.
        n: of how many.
        max_tokens: at how many tokens.
        setting: name of the argument or setting that says so.
    """
    if n_cut:
        log.warning("%d of %d strings were cut at %d tokens (%s)", n_cut, n, max_tokens, setting)


def sample_chunks(
    model: VAE, source: LatentSource, chunks: range, options: SamplingOptions, accept: AcceptFunction | None = None
) -> Samples:
    """Sample one string for each latent point of each chunk.

    Args:
        model: a VAE.
        source: where the latent points come from.
        chunks: numbers of the chunks.
        options: how to sample; of it, all but the target properties, which are the source's business.
        accept: strings that it refuses are decoded again, from the points and random numbers of the next attempt.
    """
    per_batch = _get_chunks_per_batch(model)
    batches = [chunks[at : at + per_batch] for at in range(0, len(chunks), per_batch)]
    batch_size = CHUNK_SIZE * per_batch
    decode = partial(_decode_chunks, model, source, options)

    def decode_again(attempt: int, rows: np.ndarray) -> TokenStrings:
        return decode(batches[rows[0] // batch_size], attempt, rows % batch_size)

    strings = _concat_strings(_map_in_threads(decode, batches, options.threads), options.max_tokens)
    tries, accepted = np.ones(len(strings.ids), np.int64), np.ones(len(strings.ids), bool)
    if accept is None:
        return Samples(strings.ids, strings.log_probability, strings.finished, tries, accepted)
    accepted = accept(strings)
    for attempt in range(1, options.max_tries):
        rejected = np.flatnonzero(~accepted)
        if not len(rejected):
            break
        by_batch = np.split(rejected, np.flatnonzero(np.diff(rejected // batch_size)) + 1)
        again = _map_in_threads(partial(decode_again, attempt), by_batch, options.threads)
        replacements = _concat_strings(again, options.max_tokens)
        strings.ids[rejected] = replacements.ids
        strings.log_probability[rejected] = replacements.log_probability
        strings.finished[rejected] = replacements.finished
        tries[rejected] += 1
        accepted[rejected] = accept(replacements)
    return Samples(strings.ids, strings.log_probability, strings.finished, tries, accepted)


def _decode_chunks(
    model: VAE,
    source: LatentSource,
    options: SamplingOptions,
    chunks: range,
    attempt: int = 0,
    rows: np.ndarray | slice = slice(None),
) -> TokenStrings:
    """Decode some rows of the chunks of a batch, and take the MCMC steps."""
    points = [source(chunk, attempt) for chunk in chunks]

    def draw(distribution: Callable[..., Tensor], purpose: str, width: int, mcmc_step: int) -> Tensor:
        streams = (_make_stream(options.seed, purpose, chunk, attempt, mcmc_step) for chunk in chunks)
        numbers = [
            distribution((width, len(part)), generator=stream) for part, stream in zip(points, streams, strict=True)
        ]
        return torch.cat(numbers, dim=1)[:, rows]

    z = torch.cat(points)[rows]
    strings = decode_latents(model, z, draw(torch.rand, "tokens", options.max_tokens, 0), options.temperature)
    for step in range(1, options.mcmc_steps + 1):
        mu, logvar = _encode_strings(model, strings)
        noise = draw(torch.randn, "posterior", model.latent_dim, step).T.to(mu.device)
        z = reparameterise(mu, logvar, noise)
        strings = decode_latents(model, z, draw(torch.rand, "tokens", options.max_tokens, step), options.temperature)
    return strings


def _get_chunks_per_batch(model: VAE) -> int:
    return CHUNKS_PER_BATCH.get(next(model.parameters()).device.type, 1)


def _make_stream(seed: int, purpose: str, chunk: int, attempt: int, mcmc_step: int = 0) -> torch.Generator:
    """Make the generator of a chunk's attempt; that of the first does not depend on how many may follow."""
    parts = [chunk]
    if attempt or mcmc_step:
        parts.append(attempt)
    if mcmc_step:
        parts.append(mcmc_step)
    return make_generator(seed, purpose, *parts)


@torch.inference_mode()
def _encode_strings(model: VAE, strings: TokenStrings) -> tuple[Tensor, Tensor]:
    """Posterior, (n, Z) each, of decoded strings; one without tokens is read as its end."""
    device = next(model.parameters()).device
    ids = torch.from_numpy(strings.ids.T).to(device)
    lengths = ((ids != EOS) & (ids != PAD)).sum(0).clamp(min=1)
    mu, logvar = model.encoder(ids, lengths)
    return mu, logvar


def _map_in_threads(
    work: Callable[[Item], TokenStrings], items: Sequence[Item], threads: int
) -> Iterator[TokenStrings]:
    """`work` on each item, in order, with one kernel thread each and `threads` at a time."""
    with _use_one_kernel_thread():
        if threads == 1 or len(items) == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, items)


@contextmanager
def _use_one_kernel_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _concat_strings(parts: Iterator[TokenStrings], width: int) -> TokenStrings:
    nothing = TokenStrings(np.empty((0, width), np.int64), np.empty(0), np.empty(0, bool))  # a shard may be empty
    strings = [nothing, *parts]
    ids = np.concatenate([np.pad(part.ids, ((0, 0), (0, width - part.ids.shape[1]))) for part in strings])
    log_probability = np.concatenate([part.log_probability for part in strings])
    return TokenStrings(ids, log_probability, np.concatenate([part.finished for part in strings]))
