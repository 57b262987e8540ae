"""The linear space beside a latent space: what its dimensions suffice for, and what they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from molvae.chemistry.tokenization import selfies_of
from molvae.data.bpe import Merger
from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import SPECIAL
from molvae.latent.pca_baseline import Linear


def written(tokens, vocabulary) -> list[list[str]]:
    return [selfies_of(vocabulary, tokens[row]) for row in range(len(tokens))]


def random_set(vocabulary, n: int, seed: int) -> TokenSet:
    random = np.random.default_rng(seed)
    return TokenSet.of([random.integers(len(SPECIAL), len(vocabulary), 20).tolist() for _ in range(n)])


def test_as_many_dimensions_as_the_rank_bring_every_training_molecule_back(tokens, vocabulary):
    linear = Linear(tokens, vocabulary, 1000)
    points = linear.encode(tokens)
    assert points.shape == (len(tokens), len(tokens)), "no more components than molecules"
    assert linear.decode(points) == written(tokens, vocabulary)
    assert linear.explained == pytest.approx(1)


def test_few_dimensions_bring_no_random_string_back(vocabulary):
    linear, others = Linear(random_set(vocabulary, 200, 0), vocabulary, 10), random_set(vocabulary, 100, 1)
    back = linear.decode(linear.encode(others))
    assert not any(one == other for one, other in zip(back, written(others, vocabulary), strict=True))
    assert 0 < linear.explained < 0.2


def test_merged_tokens_are_taken_apart(tokens, vocabulary):
    merged = replace(vocabulary, merges=((int(tokens[0][0]), int(tokens[0][1])),))
    ids, lengths = Merger(merged).apply(tokens.ids, tokens.lengths)
    fewer = TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]))
    assert len(fewer.ids) < len(tokens.ids)
    one, other = Linear(tokens, vocabulary, 5), Linear(fewer, merged, 5)
    np.testing.assert_allclose(one.encode(tokens), other.encode(fewer), atol=1e-4)


def test_draws_have_the_mean_and_covariance_of_the_training_molecules(tokens, vocabulary):
    linear = Linear(tokens, vocabulary, 4)
    points, draws = linear.encode(tokens), linear.draw(40_000, seed=0)
    np.testing.assert_allclose(draws.mean(0), points.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(draws.T), np.cov(points.T), atol=0.1)


def test_what_stands_behind_the_last_position_is_lost(tokens, vocabulary):
    short = tokens.select(np.flatnonzero(tokens.lengths <= 6))
    linear, longest = Linear(short, vocabulary, 10), int(tokens.lengths.argmax())
    (back,) = linear.decode(linear.encode(tokens.select(np.array([longest]))))
    assert linear.positions == 6 and len(back) < len(written(tokens, vocabulary)[longest])
