"""Sampling: sample i depends on (seed, i) only, and is what the model says it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import BOS, EOS, PAD, UNK
from molvae.inference import decoding, sampling
from molvae.inference.decoding import _choose, decode_points
from molvae.inference.posterior import posterior
from molvae.inference.sampling import CHUNK, sample_at, sample_prior
from molvae.nn.vae import untrained
from molvae.runtime.seeds import generator

N, LIMIT = 2 * CHUNK + 100, 9


@pytest.fixture(scope="module")
def model(vocabulary, sizes):
    network = untrained(len(vocabulary), sizes, seed=1).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 3
        network.decoder.state_to_logits.bias[EOS] += 0.7  # so that some strings end
    return network


@pytest.fixture(scope="module")
def whole(model):
    return sample_prior(model, 0, N, seed=5, temperature=1.0, max_tokens=LIMIT)


def points(model, count=64, limit=LIMIT, seed=0):
    random = generator(seed, "test")
    return torch.randn(count, model.latent_dim, generator=random), torch.rand(limit, count, generator=random)


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("ids", "log_probability", "finished")
    )


@settings(max_examples=12)
@given(st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted), st.integers(1, 3))
def test_any_stretch_of_samples_is_that_stretch_of_all_whatever_the_threads(model, whole, stretch, threads):
    start, stop = stretch
    part = sample_prior(model, start, stop, seed=5, temperature=1.0, max_tokens=LIMIT, threads=threads)
    assert len(part.ids) == len(part.log_probability) == len(part.finished) == stop - start
    assert np.array_equal(part.ids, whole.ids[start:stop])
    assert np.array_equal(part.log_probability, whole.log_probability[start:stop])
    assert np.array_equal(part.finished, whole.finished[start:stop])


def test_the_threads_that_torch_uses_do_not_matter_and_are_left_as_they_were(model, whole):
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert same(sample_prior(model, 0, N, seed=5, temperature=1.0, max_tokens=LIMIT, threads=2), whole)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)


def seen_ids(model, limit):
    return sample_prior(model, 0, CHUNK, seed=0, temperature=1.0, max_tokens=limit).ids


def test_each_chunk_is_decoded_whole_and_with_one_kernel_thread(model, monkeypatch):
    seen = []

    def spy(network, z, uniforms, temperature):
        seen.append((torch.get_num_threads(), len(z)))
        return decode_points(network, z, uniforms, temperature)

    monkeypatch.setattr(sampling, "decode_points", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for threads in (1, 2):
        sample_prior(model, 5, CHUNK + 1, seed=0, temperature=1.0, max_tokens=2, threads=threads)
    torch.set_num_threads(before)
    assert seen == [(1, CHUNK)] * 4  # the last bit of a matrix product depends on both
    seen.clear()
    sample_prior(model, 5, 6, seed=0, temperature=1.0, max_tokens=2, accept=lambda s: s.ids[:, 0] > 9, attempts=2)
    assert seen[0] == (1, CHUNK) and seen[1][1] == (~(seen_ids(model, 2)[:, 0] > 9)).sum()


def test_another_seed_gives_other_samples_and_no_two_chunks_are_alike(model, whole):
    other = sample_prior(model, 0, CHUNK, seed=6, temperature=1.0, max_tokens=LIMIT)
    assert (other.ids != whole.ids[:CHUNK]).any(1).mean() > 0.9
    assert (whole.ids[CHUNK : 2 * CHUNK] != whole.ids[:CHUNK]).any(1).mean() > 0.9


def test_sampling_leaves_the_global_generators_alone(model):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    sample_prior(model, 0, 3, seed=0, temperature=1.0, max_tokens=3)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


def test_a_longer_limit_only_goes_on_where_a_string_was_cut(model):
    short, long = (sample_prior(model, 0, 50, seed=5, temperature=1.0, max_tokens=limit) for limit in (LIMIT, 20))
    assert np.array_equal(long.ids[:, :LIMIT], short.ids)
    assert np.array_equal(long.log_probability[short.finished], short.log_probability[short.finished])
    assert (long.log_probability[~short.finished] < short.log_probability[~short.finished]).all()


def even_at_first(strings):
    """A rule that about half of the strings pass."""
    return strings.ids[:, 0] % 2 == 0


@settings(max_examples=12)
@given(st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted), st.integers(1, 3))
def test_strings_that_are_not_accepted_are_written_again_the_same_in_any_stretch(model, stretch, threads):
    rules = {"seed": 5, "temperature": 1.0, "max_tokens": LIMIT, "accept": even_at_first, "attempts": 4}
    start, stop = stretch
    everything = sample_prior(model, 0, N, **rules)
    part = sample_prior(model, start, stop, threads=threads, **rules)
    for name in ("ids", "log_probability", "finished", "attempts", "accepted"):
        assert np.array_equal(getattr(part, name), getattr(everything, name)[start:stop]), name


def test_what_was_accepted_stays_and_the_attempts_are_counted(model, whole):
    few, many = (
        sample_prior(model, 0, N, seed=5, temperature=1.0, max_tokens=LIMIT, accept=even_at_first, attempts=attempts)
        for attempts in (2, 30)
    )
    assert np.array_equal(few.accepted, even_at_first(few)) and many.accepted.all()
    first = even_at_first(whole)
    assert 0.2 < first.mean() < 0.8
    assert np.array_equal(few.attempts, np.where(first, 1, 2)) and many.attempts.max() > 4
    for samples in (few, many):
        assert np.array_equal(samples.ids[first], whole.ids[first])
    assert np.array_equal(many.ids[few.accepted], few.ids[few.accepted])
    again = many.ids[~first]
    assert len(np.unique(again, axis=0)) > 0.9 * len(np.unique(whole.ids[~first], axis=0))  # new points, new numbers
    expected = (many.ids == EOS).any(1)
    assert np.array_equal(many.finished, expected)


def test_strings_written_again_come_from_other_points_as_the_model_alone_would_write_them(model):
    """Rejection: accepted strings are distributed as the model's own strings that pass."""
    rules = {"temperature": 1.0, "max_tokens": LIMIT}
    plain = sample_prior(model, 0, 12 * CHUNK, seed=1, **rules)
    kept = plain.ids[even_at_first(plain)]
    again = sample_prior(model, 0, 6 * CHUNK, seed=2, accept=even_at_first, attempts=40, **rules)
    size = int(max(kept.max(), again.ids.max())) + 1
    counts = np.stack([np.bincount(ids.ravel(), minlength=size) for ids in (kept, again.ids)]).astype(float)
    shares = counts / counts.sum(1, keepdims=True)
    spread = np.sqrt(shares.mean(0) * (1 / counts.sum(1)).sum()) + 1e-9
    assert (np.abs(shares[0] - shares[1]) / spread).max() < 6  # tokens of a string go together: wider than binomial


def test_nothing_is_asked_and_nothing_is_given(model):
    for start in (0, 5, CHUNK):
        assert sample_prior(model, start, start, seed=0, temperature=1.0, max_tokens=LIMIT).ids.shape == (0, LIMIT)


def test_a_string_ends_at_its_end_and_is_padded_behind_and_one_that_is_cut_says_so(whole):
    assert 0.05 < whole.finished.mean() < 0.95  # both kinds are there
    for ids, finished in zip(whole.ids.tolist(), whole.finished, strict=True):
        assert (EOS in ids) == finished
        end = ids.index(EOS) if finished else LIMIT
        assert min(ids[:end], default=4) >= 4 and set(ids[end + 1 :]) <= {PAD}


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 5.0])
def test_special_tokens_are_never_written_even_by_a_model_that_wants_to(vocabulary, sizes, temperature):
    eager = untrained(len(vocabulary), sizes, 0).eval()
    with torch.no_grad():
        eager.decoder.state_to_logits.bias[[PAD, BOS, UNK]] = 50.0
    strings = decode_points(eager, *points(eager, 256), temperature)
    for ids, finished in zip(strings.ids.tolist(), strings.finished, strict=True):
        assert min(ids[: ids.index(EOS)] if finished else ids, default=4) >= 4
    assert np.isfinite(strings.log_probability).all()


def teacher_forced(model, z, ids):
    """Log-likelihood of strings with the special tokens ruled out, in nats."""
    ids = torch.from_numpy(ids).T
    inputs = torch.cat([torch.full((1, ids.shape[1]), BOS), ids[:-1]])
    with torch.no_grad():
        logits = model.decoder(inputs, z)
    logits[..., [PAD, BOS, UNK]] = -torch.inf
    each = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return torch.where(ids == PAD, 0.0, each).double().sum(0).numpy()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_the_log_probability_is_that_of_the_model_at_temperature_one(model, temperature):
    z, uniforms = points(model)
    strings = decode_points(model, z, uniforms, temperature)
    np.testing.assert_allclose(strings.log_probability, teacher_forced(model, z, strings.ids), rtol=1e-5, atol=1e-5)
    assert (strings.log_probability < 0).all()


def test_temperature_zero_takes_the_likeliest_token_whatever_the_random_numbers(model):
    z, uniforms = points(model)
    greedy = decode_points(model, z, uniforms, 0)
    assert same(greedy, decode_points(model, z, 1 - uniforms, 0))
    ids = torch.from_numpy(greedy.ids).T
    with torch.no_grad():
        logits = model.decoder(torch.cat([torch.full((1, 64), BOS), ids[:-1]]), z)
    logits[..., [PAD, BOS, UNK]] = -torch.inf
    assert torch.equal(torch.where(ids == PAD, PAD, logits.argmax(-1)), ids)


def test_a_low_temperature_comes_near_the_likeliest_token_and_a_high_one_near_even_odds():
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0]).repeat(1000, 1)
    uniforms = (torch.arange(1000) + 0.5) / 1000
    assert (_choose(logits, uniforms, 0.05) == 3).float().mean() > 0.99
    shares = _choose(logits, uniforms, 1e4).bincount() / 1000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=2e-3, rtol=0)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0.2, 3))
def test_evenly_spread_numbers_choose_each_token_in_proportion_to_its_probability(scores, temperature):
    logits = torch.tensor([[-math.inf, *scores]])
    uniforms = (torch.arange(2000) + 0.5) / 2000
    counts = _choose(logits.expand(2000, -1), uniforms, temperature).bincount(minlength=logits.shape[1])
    expected = 2000 * (logits[0] / temperature).softmax(-1)
    assert counts[0] == 0
    assert (counts - expected).abs().max() <= 1.01


def test_the_smallest_and_the_largest_number_choose_a_token_that_can_be():
    logits = torch.tensor([[-math.inf, -math.inf, 0.0, -math.inf, 0.0]])
    assert _choose(logits, torch.tensor([0.0]), 1.0).item() == 2
    assert _choose(logits, torch.tensor([1 - 2**-24]), 1.0).item() == 4


def test_points_of_ones_own_are_decoded_as_those_of_the_prior_are(model, whole):
    z = torch.cat([model.prior.draw(CHUNK, generator(5, "prior", chunk)) for chunk in range(3)])[:N]
    strings = sample_at(model, z, seed=5, temperature=1.0, max_tokens=LIMIT, threads=2)
    assert len(strings.ids) == N
    assert same(strings.rows(slice(2 * CHUNK)), whole.rows(slice(2 * CHUNK)))  # the last chunk is not whole there
    assert np.isclose(strings.log_probability, whole.log_probability, rtol=1e-4).mean() > 0.8


def test_rounds_go_on_from_the_posterior_of_the_string_before(model):
    rules = {"seed": 5, "temperature": 1.0, "max_tokens": LIMIT}
    first, again, twice = (sample_prior(model, 0, 100, rounds=rounds, **rules) for rounds in (0, 1, 2))
    assert not same(first, again) and not same(again, twice)
    whole = sample_prior(model, 0, CHUNK, **rules)
    molecules = [[k for k in ids if k not in (PAD, EOS)] for ids in whole.ids.tolist()]
    mu, logvar = posterior(model, TokenSet.of([ids or [EOS] for ids in molecules]))
    noise = torch.randn((model.latent_dim, CHUNK), generator=generator(5, "posterior", 0, 0, 1)).T
    uniforms = torch.rand((LIMIT, CHUNK), generator=generator(5, "tokens", 0, 0, 1))
    by_hand = decode_points(model, mu + noise * (0.5 * logvar).exp(), uniforms, 1.0)
    agree = [a.tolist()[: len(b)] == b.tolist() for a, b in zip(again.ids, by_hand.ids[:100, :LIMIT], strict=True)]
    assert np.mean(agree) > 0.95


def test_several_chunks_in_a_batch_are_the_same_samples_for_any_stretch(model, monkeypatch, whole):
    def accept(strings):
        return strings.ids[:, 0] % 2 == 0

    monkeypatch.setitem(sampling.BATCH_CHUNKS, "cpu", 2)  # as on a GPU
    rules = {"seed": 5, "temperature": 1.0, "max_tokens": LIMIT}
    assert np.mean(sample_prior(model, 0, N, **rules).ids == whole.ids) > 0.95  # the same random numbers
    rules |= {"accept": accept, "attempts": 3}
    every = sample_prior(model, 0, 4 * CHUNK, **rules)
    for start, stop in ((0, 10), (CHUNK - 5, CHUNK + 9), (2 * CHUNK - 3, 3 * CHUNK + 1)):
        assert same(sample_prior(model, start, stop, **rules), every.rows(slice(start, stop)))


def test_rounds_depend_on_seed_and_index_only(model):
    def accept(strings):
        return strings.ids[:, 0] % 2 == 0

    rules = {"seed": 5, "temperature": 1.0, "max_tokens": LIMIT, "rounds": 2, "accept": accept, "attempts": 3}
    whole = sample_prior(model, 0, 2 * CHUNK + 20, **rules)
    part = sample_prior(model, CHUNK - 5, CHUNK + 9, threads=2, **rules)
    assert same(part, whole.rows(slice(CHUNK - 5, CHUNK + 9)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 99])
def test_when_strings_that_have_ended_leave_the_batch_does_not_matter(model, monkeypatch, temperature, steps):
    z, uniforms = points(model, 200)
    usual = decode_points(model, z, uniforms, temperature)
    assert 0.02 < usual.finished.mean() < 0.95
    monkeypatch.setattr(decoding, "LEAVE_STEPS", steps)
    other = decode_points(model, z, uniforms, temperature)
    assert np.array_equal(other.ids, usual.ids) and np.array_equal(other.finished, usual.finished)
    np.testing.assert_allclose(other.log_probability, usual.log_probability, rtol=1e-5, atol=1e-5)
