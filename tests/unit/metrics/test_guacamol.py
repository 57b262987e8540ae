"""The KL divergences of GuacaMol: the published definitions written out, their errors beside a bootstrap's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, gaussian_kde

from molvae.metrics import guacamol, tanimoto

NAMES = (*guacamol.CONTINUOUS, *guacamol.DISCRETE, "internal_similarity")


def published_continuous(training: np.ndarray, samples: np.ndarray) -> float:
    """`continuous_kldiv` of guacamol 0.5.5."""
    kde_p, kde_q = gaussian_kde(training), gaussian_kde(samples)
    both = np.hstack([training, samples])
    points = np.linspace(both.min(), both.max(), num=1000)
    return entropy(kde_p(points) + 1e-10, kde_q(points) + 1e-10)


def published_discrete(training: np.ndarray, samples: np.ndarray) -> float:
    """`discrete_kldiv` of guacamol 0.5.5."""
    p, bins = np.histogram(training, bins=10, density=True)
    q, _ = np.histogram(samples, bins=bins, density=True)
    return entropy(p + 1e-10, q + 1e-10)


def amounts(seed: int, n: int, middle: float = 3.0) -> np.ndarray:
    """As of a weight or a logP."""
    return np.random.default_rng(seed).gamma(middle, 1.0, n)


def counts(seed: int, n: int, mean: float = 3.0) -> np.ndarray:
    """As of rings or rotatable bonds."""
    return np.random.default_rng(seed).poisson(mean, n).astype(float)


def described(seed: int, n: int, mean: float = 3.0) -> dict[str, np.ndarray]:
    return {name: (counts if name in guacamol.DISCRETE else amounts)(seed + k, n, mean) for k, name in enumerate(NAMES)}


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 60), st.floats(1, 20))
def test_the_divergence_of_densities_is_the_published_one(seed, n, m, middle):
    training, samples = amounts(seed, n), amounts(seed + 1, m, middle)
    found = guacamol.Continuous(training, samples)
    assert found.value == pytest.approx(published_continuous(training, samples), rel=1e-9, abs=1e-12)


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 60), st.floats(1, 6))
def test_the_divergence_of_histograms_is_the_published_one(seed, n, m, mean):
    training, samples = np.append(counts(seed, n), [0, 9]), np.append(counts(seed + 1, m, mean), 1)
    found = guacamol.Discrete(training, samples)
    assert found.value == pytest.approx(published_discrete(training, samples), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("divergence", "published", "training", "samples"),
    [(guacamol.Continuous, published_continuous, amounts(0, 400), amounts(1, 300, 4.5)),
     (guacamol.Discrete, published_discrete, np.append(counts(0, 400), [0, 9]), counts(1, 300, 4.0))],
    ids=["densities", "histograms"],
)  # fmt: skip
def test_a_resample_has_the_divergence_of_its_samples(divergence, published, training, samples):
    random, found = np.random.default_rng(2), divergence(training, samples)
    assert found.resampled(np.ones(len(samples))) == pytest.approx(found.value, rel=2e-3)
    for _ in range(20):
        rows = random.integers(len(samples), size=len(samples))
        weights = np.bincount(rows, minlength=len(samples)).astype(float)
        assert found.resampled(weights) == pytest.approx(published(training, samples[rows]), rel=0.05)


@pytest.mark.parametrize("mean", [3.0, 3.5], ids=["a generator like the training set", "another"])
def test_an_interval_covers_the_mean_of_further_samples(mean):
    training = described(0, 2000)
    found = [guacamol.divergences(described(1000 + 20 * k, 500, mean), training) for k in range(60)]
    scores = [score for score, _ in found]
    truth = np.mean([score.value for score in scores])
    assert np.mean([score.low <= truth <= score.high for score in scores]) >= 0.88
    for name in ("BertzCT", "NumHDonors"):
        parts = [parts[name] for _, parts in found]
        truth = np.mean([part.value for part in parts])
        assert np.mean([part.low <= truth <= part.high for part in parts]) >= 0.85


def test_values_without_any_spread_have_no_density():
    spread, none = amounts(0, 20), np.full(20, 3.0)
    for training, samples in ((spread, none), (none, spread), (none, none)):
        found = guacamol.Continuous(training, samples)
        assert math.isnan(found.value) and math.isnan(found.resampled(np.ones(20)))


def test_samples_beyond_all_training_values_are_in_no_bin():
    found = guacamol.Discrete(np.array([0.0, 1, 2, 3]), np.array([4.0, 5, -1]))
    assert math.isnan(found.value)


def test_the_ends_of_the_training_values_belong_to_the_bins_and_what_lies_beyond_counts_nothing():
    training, inside = np.arange(11.0), np.array([0.0, 10, 10])
    value = guacamol.Discrete(training, inside).value
    assert value == pytest.approx(published_discrete(training, inside))
    assert guacamol.Discrete(training, np.append(inside, [11, -1])).value == pytest.approx(value)


def test_a_part_that_is_no_number_leaves_no_interval():
    training, samples = described(0, 200), described(50, 100)
    score, parts = guacamol.divergences({**samples, "MolWt": np.full(100, 3.0)}, training)
    assert parts["MolWt"] == score == (None, None, None, None)
    assert parts["TPSA"].low is not None


def test_a_set_diverges_in_nothing_from_itself():
    own = described(0, 200)
    score, parts = guacamol.divergences(own, own)
    assert score.value == pytest.approx(1, abs=1e-9)
    assert set(parts) == set(NAMES) and len(parts) == 10
    assert [part.value for part in parts.values()] == pytest.approx([0] * 10, abs=1e-9)


def test_the_score_is_the_mean_of_the_parts_and_less_than_one_for_another_set():
    training, samples = described(0, 300), described(50, 200, 5.0)
    score, parts = guacamol.divergences(samples, training)
    for name, part in parts.items():
        published = published_discrete if name in guacamol.DISCRETE else published_continuous
        assert part.value == pytest.approx(
            published(training[name], samples[name])
        )  # of the training set, then samples
        assert 0 <= part.low <= part.value <= part.high and part.error > 0
    assert score.value == pytest.approx(np.mean([math.exp(-part.value) for part in parts.values()]))
    assert 0 < score.low < score.value < score.high < 1


def test_internal_similarity_is_that_to_the_most_similar_other_molecule():
    bits = np.random.default_rng(0).integers(0, 256, (9, 512), dtype=np.uint8)
    np.testing.assert_array_equal(guacamol.internal_similarity(bits), tanimoto.nearest_other(bits))
    assert guacamol.internal_similarity(bits[[0, 1, 0]]).tolist()[::2] == [1, 1]
