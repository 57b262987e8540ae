"""Sampling: sample i depends on (seed, i) only, and strings follow the distribution of the model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import BOS, EOS, PAD, UNK
from molvae.inference import decoding, sampling
from molvae.inference.decoding import _choose_tokens, decode_latents
from molvae.inference.posterior import compute_posterior
from molvae.inference.sampling import CHUNK_SIZE, SamplingOptions, sample_at_points, sample_prior
from molvae.nn.vae import init_vae
from molvae.runtime.seeds import make_generator

N, MAX_TOKENS = 2 * CHUNK_SIZE + 100, 9
OPTIONS = SamplingOptions(seed=5, max_tokens=MAX_TOKENS)


@pytest.fixture(scope="module")
def model(vocabulary, sizes):
    """A network with random weights that ends some of its strings."""
    network = init_vae(len(vocabulary), sizes, seed=1).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 3
        network.decoder.state_to_logits.bias[EOS] += 0.7
    return network


@pytest.fixture(scope="module")
def samples(model):
    """The first N samples, none of them refused."""
    return sample_prior(model, 0, N, OPTIONS)


def draw_points(model, count=64, seed=0):
    """Draw latent points, and the uniform numbers that choose their tokens."""
    random = make_generator(seed, "test")
    return torch.randn(count, model.latent_dim, generator=random), torch.rand(MAX_TOKENS, count, generator=random)


def are_equal(strings, expected) -> bool:
    names = ("ids", "log_probability", "finished")
    return all(np.array_equal(getattr(strings, name), getattr(expected, name)) for name in names)


@settings(max_examples=12)
@given(st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted), st.integers(1, 3))
def test_samples_of_any_range_are_the_same_whatever_the_range_and_the_threads(model, samples, span, threads):
    start, stop = span
    part = sample_prior(model, start, stop, replace(OPTIONS, threads=threads))
    assert len(part.ids) == len(part.log_probability) == len(part.finished) == stop - start
    assert np.array_equal(part.ids, samples.ids[start:stop])
    assert np.array_equal(part.log_probability, samples.log_probability[start:stop])
    assert np.array_equal(part.finished, samples.finished[start:stop])


def test_sampling_does_not_depend_on_the_threads_of_torch_and_leaves_them_as_they_were(model, samples):
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert are_equal(sample_prior(model, 0, N, replace(OPTIONS, threads=2)), samples)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)


def test_sampling_decodes_each_chunk_whole_and_with_one_kernel_thread(model, monkeypatch):
    calls = []

    def record_call(network, z, uniforms, temperature):
        calls.append((torch.get_num_threads(), len(z)))
        return decode_latents(network, z, uniforms, temperature)

    options = SamplingOptions(max_tokens=2)
    first_tokens = sample_prior(model, 0, CHUNK_SIZE, options).ids[:, 0]
    monkeypatch.setattr(sampling, "decode_latents", record_call)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for threads in (1, 2):
        sample_prior(model, 5, CHUNK_SIZE + 1, replace(options, threads=threads))
    torch.set_num_threads(before)
    assert calls == [(1, CHUNK_SIZE)] * 4  # the last bit of a matrix product depends on both
    calls.clear()
    sample_prior(model, 5, 6, replace(options, max_tries=2), lambda strings: strings.ids[:, 0] > 9)
    assert calls[0] == (1, CHUNK_SIZE) and calls[1][1] == (~(first_tokens > 9)).sum()


def test_samples_differ_between_seeds_and_between_chunks(model, samples):
    next_seed = sample_prior(model, 0, CHUNK_SIZE, replace(OPTIONS, seed=6))
    assert (next_seed.ids != samples.ids[:CHUNK_SIZE]).any(1).mean() > 0.9
    assert (samples.ids[CHUNK_SIZE : 2 * CHUNK_SIZE] != samples.ids[:CHUNK_SIZE]).any(1).mean() > 0.9


def test_sampling_leaves_the_global_generators_alone(model):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    sample_prior(model, 0, 3, SamplingOptions(max_tokens=3))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


def test_samples_of_a_larger_token_limit_only_continue_strings_that_were_cut(model):
    short, long = (sample_prior(model, 0, 50, replace(OPTIONS, max_tokens=limit)) for limit in (MAX_TOKENS, 20))
    assert np.array_equal(long.ids[:, :MAX_TOKENS], short.ids)
    assert np.array_equal(long.log_probability[short.finished], short.log_probability[short.finished])
    assert (long.log_probability[~short.finished] < short.log_probability[~short.finished]).all()


def starts_even(strings):
    """Accept strings whose first token is even: about half of them."""
    return strings.ids[:, 0] % 2 == 0


@settings(max_examples=12)
@given(st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted), st.integers(1, 3))
def test_rejection_sampling_gives_the_same_samples_whatever_the_range_and_the_threads(model, span, threads):
    start, stop = span
    options = replace(OPTIONS, max_tries=4)
    expected = sample_prior(model, 0, N, options, starts_even)
    part = sample_prior(model, start, stop, replace(options, threads=threads), starts_even)
    for name in ("ids", "log_probability", "finished", "tries", "accepted"):
        assert np.array_equal(getattr(part, name), getattr(expected, name)[start:stop]), name


def test_rejection_sampling_keeps_accepted_strings_and_counts_the_tries(model, samples):
    few, many = (sample_prior(model, 0, N, replace(OPTIONS, max_tries=max_tries), starts_even) for max_tries in (2, 30))
    assert np.array_equal(few.accepted, starts_even(few)) and many.accepted.all()
    is_accepted_first = starts_even(samples)
    assert 0.2 < is_accepted_first.mean() < 0.8
    assert np.array_equal(few.tries, np.where(is_accepted_first, 1, 2)) and many.tries.max() > 4
    for redrawn in (few, many):
        assert np.array_equal(redrawn.ids[is_accepted_first], samples.ids[is_accepted_first])
    assert np.array_equal(many.ids[few.accepted], few.ids[few.accepted])
    n_redrawn, n_rejected = (len(np.unique(part.ids[~is_accepted_first], axis=0)) for part in (many, samples))
    assert n_redrawn > 0.9 * n_rejected  # from new points and new random numbers
    assert np.array_equal(many.finished, (many.ids == EOS).any(1))


def test_rejection_sampling_gives_the_distribution_of_the_strings_of_the_model_that_are_accepted(model):
    plain = sample_prior(model, 0, 12 * CHUNK_SIZE, replace(OPTIONS, seed=1))
    accepted = plain.ids[starts_even(plain)]
    redrawn = sample_prior(model, 0, 6 * CHUNK_SIZE, replace(OPTIONS, seed=2, max_tries=40), starts_even).ids
    size = int(max(accepted.max(), redrawn.max())) + 1
    counts = np.stack([np.bincount(ids.ravel(), minlength=size) for ids in (accepted, redrawn)]).astype(float)
    fractions = counts / counts.sum(1, keepdims=True)
    spread = np.sqrt(fractions.mean(0) * (1 / counts.sum(1)).sum()) + 1e-9
    # the tokens of a string depend on each other: the deviation is wider than a binomial one
    assert (np.abs(fractions[0] - fractions[1]) / spread).max() < 6


def test_samples_of_an_empty_range_are_empty(model):
    for start in (0, 5, CHUNK_SIZE):
        assert sample_prior(model, start, start, OPTIONS).ids.shape == (0, MAX_TOKENS)


def test_samples_are_padded_behind_their_end_and_marked_unfinished_where_they_were_cut(samples):
    assert 0.05 < samples.finished.mean() < 0.95  # there are both
    for ids, finished in zip(samples.ids.tolist(), samples.finished, strict=True):
        assert (EOS in ids) == finished
        end = ids.index(EOS) if finished else MAX_TOKENS
        assert min(ids[:end], default=4) >= 4 and set(ids[end + 1 :]) <= {PAD}


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 5.0])
def test_decoding_never_gives_special_tokens_even_where_the_model_prefers_them(vocabulary, sizes, temperature):
    network = init_vae(len(vocabulary), sizes, 0).eval()
    with torch.no_grad():
        network.decoder.state_to_logits.bias[[PAD, BOS, UNK]] = 50.0
    strings = decode_latents(network, *draw_points(network, 256), temperature)
    for ids, finished in zip(strings.ids.tolist(), strings.finished, strict=True):
        assert min(ids[: ids.index(EOS)] if finished else ids, default=4) >= 4
    assert np.isfinite(strings.log_probability).all()


def compute_teacher_forced_log_likelihood(model, z, ids):
    """Log-likelihood of strings with the special tokens ruled out, in nats."""
    ids = torch.from_numpy(ids).T
    inputs = torch.cat([torch.full((1, ids.shape[1]), BOS), ids[:-1]])
    with torch.no_grad():
        logits = model.decoder(inputs, z)
    logits[..., [PAD, BOS, UNK]] = -torch.inf
    by_token = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return torch.where(ids == PAD, 0.0, by_token).double().sum(0).numpy()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_decoding_gives_the_log_probability_of_the_model_at_temperature_one(model, temperature):
    z, uniforms = draw_points(model)
    strings = decode_latents(model, z, uniforms, temperature)
    expected = compute_teacher_forced_log_likelihood(model, z, strings.ids)
    np.testing.assert_allclose(strings.log_probability, expected, rtol=1e-5, atol=1e-5)
    assert (strings.log_probability < 0).all()


def test_decoding_at_temperature_zero_takes_the_likeliest_token_whatever_the_random_numbers(model):
    z, uniforms = draw_points(model)
    greedy = decode_latents(model, z, uniforms, 0)
    assert are_equal(greedy, decode_latents(model, z, 1 - uniforms, 0))
    ids = torch.from_numpy(greedy.ids).T
    with torch.no_grad():
        logits = model.decoder(torch.cat([torch.full((1, 64), BOS), ids[:-1]]), z)
    logits[..., [PAD, BOS, UNK]] = -torch.inf
    assert torch.equal(torch.where(ids == PAD, PAD, logits.argmax(-1)), ids)


def test_token_choice_is_nearly_greedy_at_low_temperature_and_nearly_uniform_at_high_temperature():
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0]).repeat(1000, 1)
    uniforms = (torch.arange(1000) + 0.5) / 1000
    assert (_choose_tokens(logits, uniforms, 0.05) == 3).float().mean() > 0.99
    fractions = _choose_tokens(logits, uniforms, 1e4).bincount() / 1000
    torch.testing.assert_close(fractions, torch.full((4,), 0.25), atol=2e-3, rtol=0)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0.2, 3))
def test_token_choice_by_evenly_spread_numbers_is_proportional_to_the_probabilities(scores, temperature):
    logits = torch.tensor([[-math.inf, *scores]])
    uniforms = (torch.arange(2000) + 0.5) / 2000
    counts = _choose_tokens(logits.expand(2000, -1), uniforms, temperature).bincount(minlength=logits.shape[1])
    expected = 2000 * (logits[0] / temperature).softmax(-1)
    assert counts[0] == 0
    assert (counts - expected).abs().max() <= 1.01


def test_token_choice_by_the_smallest_and_largest_number_is_a_possible_token():
    logits = torch.tensor([[-math.inf, -math.inf, 0.0, -math.inf, 0.0]])
    assert _choose_tokens(logits, torch.tensor([0.0]), 1.0).item() == 2
    assert _choose_tokens(logits, torch.tensor([1 - 2**-24]), 1.0).item() == 4


def test_samples_at_given_points_are_those_of_the_prior_where_the_points_are(model, samples):
    z = torch.cat([model.prior.sample(CHUNK_SIZE, make_generator(5, "prior", chunk)) for chunk in range(3)])[:N]
    strings = sample_at_points(model, z, replace(OPTIONS, threads=2))
    assert len(strings.ids) == N
    whole_chunks = slice(2 * CHUNK_SIZE)  # the last chunk has fewer points here
    assert are_equal(strings.take(whole_chunks), samples.take(whole_chunks))
    assert np.isclose(strings.log_probability, samples.log_probability, rtol=1e-4).mean() > 0.8


def test_mcmc_steps_continue_from_the_posterior_of_the_string_before(model):
    start, after_one, after_two = (
        sample_prior(model, 0, 100, replace(OPTIONS, mcmc_steps=mcmc_steps)) for mcmc_steps in (0, 1, 2)
    )
    assert not are_equal(start, after_one) and not are_equal(after_one, after_two)
    chunk = sample_prior(model, 0, CHUNK_SIZE, OPTIONS)
    molecules = [[k for k in ids if k not in (PAD, EOS)] for ids in chunk.ids.tolist()]
    mu, logvar = compute_posterior(model, TokenSet.from_lists([ids or [EOS] for ids in molecules]))
    noise = torch.randn((model.latent_dim, CHUNK_SIZE), generator=make_generator(5, "posterior", 0, 0, 1)).T
    uniforms = torch.rand((MAX_TOKENS, CHUNK_SIZE), generator=make_generator(5, "tokens", 0, 0, 1))
    by_hand = decode_latents(model, mu + noise * (0.5 * logvar).exp(), uniforms, 1.0)
    pairs = zip(after_one.ids, by_hand.ids[:100, :MAX_TOKENS], strict=True)
    assert np.mean([ids.tolist()[: len(expected)] == expected.tolist() for ids, expected in pairs]) > 0.95


def test_samples_of_any_range_are_the_same_where_a_batch_has_several_chunks(model, monkeypatch, samples):
    monkeypatch.setitem(sampling.CHUNKS_PER_BATCH, "cpu", 2)  # as on a GPU
    assert np.mean(sample_prior(model, 0, N, OPTIONS).ids == samples.ids) > 0.95  # the same random numbers
    options = replace(OPTIONS, max_tries=3)
    expected = sample_prior(model, 0, 4 * CHUNK_SIZE, options, starts_even)
    for start, stop in ((0, 10), (CHUNK_SIZE - 5, CHUNK_SIZE + 9), (2 * CHUNK_SIZE - 3, 3 * CHUNK_SIZE + 1)):
        part = sample_prior(model, start, stop, options, starts_even)
        assert are_equal(part, expected.take(slice(start, stop)))


def test_mcmc_samples_depend_on_seed_and_index_only(model):
    options = replace(OPTIONS, mcmc_steps=2, max_tries=3)
    expected = sample_prior(model, 0, 2 * CHUNK_SIZE + 20, options, starts_even)
    part = sample_prior(model, CHUNK_SIZE - 5, CHUNK_SIZE + 9, replace(options, threads=2), starts_even)
    assert are_equal(part, expected.take(slice(CHUNK_SIZE - 5, CHUNK_SIZE + 9)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 99])
def test_decoding_does_not_depend_on_when_finished_strings_leave_the_batch(model, monkeypatch, temperature, steps):
    z, uniforms = draw_points(model, 200)
    expected = decode_latents(model, z, uniforms, temperature)
    assert 0.02 < expected.finished.mean() < 0.95
    monkeypatch.setattr(decoding, "COMPACT_STEPS", steps)
    strings = decode_latents(model, z, uniforms, temperature)
    assert np.array_equal(strings.ids, expected.ids) and np.array_equal(strings.finished, expected.finished)
    np.testing.assert_allclose(strings.log_probability, expected.log_probability, rtol=1e-5, atol=1e-5)
