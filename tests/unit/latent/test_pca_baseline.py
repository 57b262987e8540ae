"""The PCA baseline of a latent space: what its dimensions suffice for, and what they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from molvae.data.bpe import MergeEncoder
from molvae.data.dataset import TokenSet
from molvae.data.tokenizer import ids_to_selfies
from molvae.data.vocabulary import SPECIAL
from molvae.latent.pca_baseline import PCABaseline


def to_selfies(tokens, vocabulary) -> list[list[str]]:
    return [ids_to_selfies(vocabulary, tokens[row]) for row in range(len(tokens))]


def make_random_molecules(vocabulary, n: int, seed: int) -> TokenSet:
    random = np.random.default_rng(seed)
    return TokenSet.from_lists([random.integers(len(SPECIAL), len(vocabulary), 20).tolist() for _ in range(n)])


def test_pca_baseline_with_as_many_dimensions_as_molecules_reconstructs_its_training_molecules(tokens, vocabulary):
    baseline = PCABaseline(tokens, vocabulary, 1000)
    points = baseline.encode(tokens)
    assert points.shape == (len(tokens), len(tokens)), "no more components than molecules"
    assert baseline.decode(points) == to_selfies(tokens, vocabulary)
    assert baseline.explained_variance == pytest.approx(1)


def test_pca_baseline_with_few_dimensions_reconstructs_no_random_string(vocabulary):
    baseline = PCABaseline(make_random_molecules(vocabulary, 200, 0), vocabulary, 10)
    molecules = make_random_molecules(vocabulary, 100, 1)
    pairs = zip(baseline.decode(baseline.encode(molecules)), to_selfies(molecules, vocabulary), strict=True)
    assert not any(decoded == expected for decoded, expected in pairs)
    assert 0 < baseline.explained_variance < 0.2


def test_pca_baseline_expands_merged_tokens(tokens, vocabulary):
    merged_vocabulary = replace(vocabulary, merges=((int(tokens[0][0]), int(tokens[0][1])),))
    ids, lengths = MergeEncoder(merged_vocabulary).apply(tokens.ids, tokens.lengths)
    merged = TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]))
    assert len(merged.ids) < len(tokens.ids)
    baseline, merged_baseline = PCABaseline(tokens, vocabulary, 5), PCABaseline(merged, merged_vocabulary, 5)
    np.testing.assert_allclose(baseline.encode(tokens), merged_baseline.encode(merged), atol=1e-4)


def test_pca_baseline_samples_points_with_mean_and_covariance_of_its_training_molecules(tokens, vocabulary):
    baseline = PCABaseline(tokens, vocabulary, 4)
    points, samples = baseline.encode(tokens), baseline.sample(40_000, seed=0)
    np.testing.assert_allclose(samples.mean(0), points.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(samples.T), np.cov(points.T), atol=0.1)


def test_pca_baseline_loses_symbols_behind_its_last_position(tokens, vocabulary):
    short = tokens.select(np.flatnonzero(tokens.lengths <= 6))
    baseline, longest = PCABaseline(short, vocabulary, 10), int(tokens.lengths.argmax())
    (decoded,) = baseline.decode(baseline.encode(tokens.select(np.array([longest]))))
    assert baseline.positions == 6 and len(decoded) < len(to_selfies(tokens, vocabulary)[longest])
