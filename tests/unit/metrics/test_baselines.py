"""Baselines of the metrics: strings of tokens at random, shuffled latent points, posteriors, training molecules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from molvae.data.vocabulary import Vocabulary
from molvae.inference.posterior import compute_random_posteriors
from molvae.inference.round_trip_filter import iter_selfies
from molvae.inference.sampling import SamplingOptions, sample_prior
from molvae.metrics import baselines

ATOMS = Vocabulary.build(  # each symbol is a token
    ["[B]", "[Br]", "[C]", "[=C]", "[Cl]", "[F]", "[I]", "[N]", "[=N]", "[O]", "[P]", "[S]"], {}
)


@pytest.fixture
def noiseless_posteriors(network, tokens, monkeypatch):
    """Means of 700 posteriors, which the baselines take without noise."""
    mu, logvar = compute_random_posteriors(network, tokens, 700, 5)
    monkeypatch.setattr(baselines, "compute_random_posteriors", lambda *_: (mu, torch.full_like(logvar, -80)))
    return mu


def test_random_strings_have_the_lengths_of_the_molecules_and_every_symbol_equally_often():
    strings = baselines.sample_random_tokens(ATOMS, np.array([3, 7]), 2000, seed=0)
    assert len(strings) == 2000 and {len(string) for string in strings} == {3, 7}
    _, counts = np.unique([symbol for string in strings for symbol in string], return_counts=True)
    assert len(counts) == len(ATOMS.symbols)
    assert abs(counts / counts.mean() - 1).max() < 5 / counts.mean() ** 0.5  # five standard deviations of a Poisson
    assert strings == baselines.sample_random_tokens(ATOMS, np.array([3, 7]), 2000, seed=0)
    assert strings != baselines.sample_random_tokens(ATOMS, np.array([3, 7]), 2000, seed=1)


def test_training_molecules_are_drawn_without_repetition():
    rows = baselines.draw_training_rows(9, 5, seed=0)
    assert len(set(rows)) == 5 and set(rows) < set(range(9))
    assert sorted(baselines.draw_training_rows(9, 99, seed=0)) == list(range(9))


def test_shuffled_latent_points_give_the_same_strings_for_the_same_seed(network, tokens, vocabulary):
    def sample(seed: int, n: int = 600, threads: int = 1) -> list[list[str]]:
        options = SamplingOptions(seed=seed, temperature=1.0, max_tokens=12, threads=threads)
        return baselines.sample_shuffled_latents(network, tokens, vocabulary, n, options)

    strings = sample(1)
    assert len(strings) == 600 and all(symbol.startswith("[") for string in strings for symbol in string)
    assert strings == sample(1, threads=2) != sample(2)


def test_shuffled_latent_points_keep_the_values_of_each_dimension_and_no_molecule(
    network, tokens, vocabulary, noiseless_posteriors, monkeypatch
):
    mu, recorded, sample_at_points = noiseless_posteriors, [], baselines.sample_at_points

    def record_points(model, points, options):
        recorded.append(points)
        return sample_at_points(model, points, options)

    monkeypatch.setattr(baselines, "sample_at_points", record_points)
    options = SamplingOptions(seed=5, temperature=1, max_tokens=3)
    baselines.sample_shuffled_latents(network, tokens, vocabulary, 700, options)
    (points,) = recorded
    assert points.shape == mu.shape
    torch.testing.assert_close(points.sort(0).values, mu.sort(0).values)
    molecules = {tuple(row) for row in mu.numpy().round(4).tolist()}
    assert len(molecules) == len(tokens)
    assert np.mean([tuple(row) in molecules for row in points.numpy().round(4).tolist()]) < 0.1
    lost = np.corrcoef(mu.T.numpy()) - np.corrcoef(points.T.numpy())
    assert abs(np.corrcoef(points.T.numpy()) - np.eye(mu.shape[1])).max() < 0.2 < abs(lost).max()


def test_unfiltered_samples_are_the_first_strings_of_the_samples(network, vocabulary):
    options = SamplingOptions(seed=3, max_tokens=12, max_tries=5, mcmc_steps=2)
    strings = baselines.sample_unfiltered(network, vocabulary, 50, options)
    first = sample_prior(network, 0, 50, SamplingOptions(seed=3, max_tokens=12))
    assert strings == list(iter_selfies(vocabulary, first)) and len(strings) == 50


def test_samples_from_posteriors_are_decoded_at_latent_points_of_training_molecules(
    network, tokens, vocabulary, noiseless_posteriors, monkeypatch
):
    mu, first, second, sample_chunks = noiseless_posteriors, [], [], baselines.sample_chunks

    def record_points(model, source, chunks, options, accept):
        first.extend(source(chunk, 0) for chunk in chunks)
        second.extend(source(chunk, 1) for chunk in chunks)
        return sample_chunks(model, source, chunks, options, accept)

    monkeypatch.setattr(baselines, "sample_chunks", record_points)
    options = SamplingOptions(seed=5, max_tokens=3)
    baselines.sample_from_posteriors(network, tokens, vocabulary, 700, options)
    torch.testing.assert_close(torch.cat(first), mu)
    molecules = {tuple(row) for row in mu.numpy().round(4).tolist()}
    retries = torch.cat(second)
    assert {tuple(row) for row in retries.numpy().round(4).tolist()} == molecules  # in another order
    assert retries.shape == mu.shape and not torch.equal(retries, mu)


def test_samples_from_posteriors_are_decoded_again_until_accepted_and_all_strings_are_counted(
    network, tokens, vocabulary
):
    def sample(accept, seed: int = 1, threads: int = 1) -> tuple[list[list[str]], int]:
        options = SamplingOptions(seed=seed, max_tokens=12, max_tries=3, mcmc_steps=2, threads=threads)
        return baselines.sample_from_posteriors(network, tokens, vocabulary, 300, options, accept)

    strings, n_decoded = sample(None)
    assert len(strings) == n_decoded == 300
    assert sample(None, threads=2)[0] == strings != sample(None, seed=2)[0]
    refused, n_decoded = sample(lambda strings: np.zeros(len(strings.ids), bool))
    assert len(refused) == 300 and n_decoded == 900 and refused != strings
    accepted, n_decoded = sample(lambda strings: np.ones(len(strings.ids), bool))
    assert accepted == strings and n_decoded == 300
