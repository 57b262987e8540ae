"""The KL divergences of GuacaMol: equal to the published definitions, with the errors of a bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, gaussian_kde

from molvae.metrics import guacamol, tanimoto

NAMES = (*guacamol.CONTINUOUS, *guacamol.DISCRETE, "internal_similarity")


def compute_published_continuous(training: np.ndarray, samples: np.ndarray) -> float:
    """Compute `continuous_kldiv` of guacamol 0.5.5."""
    kde_p, kde_q = gaussian_kde(training), gaussian_kde(samples)
    values = np.hstack([training, samples])
    points = np.linspace(values.min(), values.max(), num=1000)
    return entropy(kde_p(points) + 1e-10, kde_q(points) + 1e-10)


def compute_published_discrete(training: np.ndarray, samples: np.ndarray) -> float:
    """Compute `discrete_kldiv` of guacamol 0.5.5."""
    p, bins = np.histogram(training, bins=10, density=True)
    q, _ = np.histogram(samples, bins=bins, density=True)
    return entropy(p + 1e-10, q + 1e-10)


def draw_amounts(seed: int, n: int, middle: float = 3.0) -> np.ndarray:
    """Draw values like those of a weight or a logP."""
    return np.random.default_rng(seed).gamma(middle, 1.0, n)


def draw_counts(seed: int, n: int, mean: float = 3.0) -> np.ndarray:
    """Draw values like those of rings or rotatable bonds."""
    return np.random.default_rng(seed).poisson(mean, n).astype(float)


def draw_descriptors(seed: int, n: int, mean: float = 3.0) -> dict[str, np.ndarray]:
    return {
        name: (draw_counts if name in guacamol.DISCRETE else draw_amounts)(seed + k, n, mean)
        for k, name in enumerate(NAMES)
    }


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 60), st.floats(1, 20))
def test_kl_divergence_of_densities_equals_the_published_one(seed, n, m, middle):
    training, samples = draw_amounts(seed, n), draw_amounts(seed + 1, m, middle)
    divergence = guacamol.ContinuousDivergence(training, samples)
    assert divergence.value == pytest.approx(compute_published_continuous(training, samples), rel=1e-9, abs=1e-12)


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 60), st.floats(1, 6))
def test_kl_divergence_of_histograms_equals_the_published_one(seed, n, m, mean):
    training, samples = np.append(draw_counts(seed, n), [0, 9]), np.append(draw_counts(seed + 1, m, mean), 1)
    divergence = guacamol.DiscreteDivergence(training, samples)
    assert divergence.value == pytest.approx(compute_published_discrete(training, samples), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("make_divergence", "compute_published", "training", "samples"),
    [
        (guacamol.ContinuousDivergence, compute_published_continuous, draw_amounts(0, 400), draw_amounts(1, 300, 4.5)),
        (
            guacamol.DiscreteDivergence,
            compute_published_discrete,
            np.append(draw_counts(0, 400), [0, 9]),
            draw_counts(1, 300, 4.0),
        ),
    ],
    ids=["densities", "histograms"],
)
def test_kl_divergence_of_a_resample_equals_that_of_its_samples(make_divergence, compute_published, training, samples):
    random, divergence = np.random.default_rng(2), make_divergence(training, samples)
    assert divergence.compute_resampled(np.ones(len(samples))) == pytest.approx(divergence.value, rel=2e-3)
    for _ in range(20):
        rows = random.integers(len(samples), size=len(samples))
        weights = np.bincount(rows, minlength=len(samples)).astype(float)
        published = compute_published(training, samples[rows])
        assert divergence.compute_resampled(weights) == pytest.approx(published, rel=0.05)


@pytest.mark.parametrize("mean", [3.0, 3.5], ids=["like the training set", "unlike the training set"])
def test_kl_intervals_hold_the_mean_of_further_samples(mean):
    training = draw_descriptors(0, 2000)
    estimates = [
        guacamol.compute_kl_divergences(draw_descriptors(1000 + 20 * k, 500, mean), training) for k in range(60)
    ]
    scores = [score for score, _ in estimates]
    truth = np.mean([score.value for score in scores])
    assert np.mean([score.low <= truth <= score.high for score in scores]) >= 0.88
    for name in ("BertzCT", "NumHDonors"):
        parts = [parts[name] for _, parts in estimates]
        truth = np.mean([part.value for part in parts])
        assert np.mean([part.low <= truth <= part.high for part in parts]) >= 0.85


def test_values_without_any_spread_have_no_kl_divergence_of_densities():
    spread, constant = draw_amounts(0, 20), np.full(20, 3.0)
    for training, samples in ((spread, constant), (constant, spread), (constant, constant)):
        divergence = guacamol.ContinuousDivergence(training, samples)
        assert math.isnan(divergence.value) and math.isnan(divergence.compute_resampled(np.ones(20)))


def test_samples_beyond_all_training_values_have_no_kl_divergence_of_histograms():
    divergence = guacamol.DiscreteDivergence(np.array([0.0, 1, 2, 3]), np.array([4.0, 5, -1]))
    assert math.isnan(divergence.value)


def test_histogram_bins_include_the_extreme_training_values_and_ignore_samples_beyond():
    training, inside = np.arange(11.0), np.array([0.0, 10, 10])
    value = guacamol.DiscreteDivergence(training, inside).value
    assert value == pytest.approx(compute_published_discrete(training, inside))
    assert guacamol.DiscreteDivergence(training, np.append(inside, [11, -1])).value == pytest.approx(value)


def test_kl_score_with_a_part_that_is_not_a_number_has_no_interval():
    training, samples = draw_descriptors(0, 200), draw_descriptors(50, 100)
    score, parts = guacamol.compute_kl_divergences({**samples, "MolWt": np.full(100, 3.0)}, training)
    assert parts["MolWt"] == score == (None, None, None, None)
    assert parts["TPSA"].low is not None


def test_kl_divergences_of_a_set_from_itself_are_zero_and_its_score_is_one():
    descriptors = draw_descriptors(0, 200)
    score, parts = guacamol.compute_kl_divergences(descriptors, descriptors)
    assert score.value == pytest.approx(1, abs=1e-9)
    assert set(parts) == set(NAMES) and len(parts) == 10
    assert [part.value for part in parts.values()] == pytest.approx([0] * 10, abs=1e-9)


def test_kl_score_is_a_mean_over_the_parts_and_below_one_for_different_sets():
    training, samples = draw_descriptors(0, 300), draw_descriptors(50, 200, 5.0)
    score, parts = guacamol.compute_kl_divergences(samples, training)
    for name, part in parts.items():
        compute_published = compute_published_discrete if name in guacamol.DISCRETE else compute_published_continuous
        assert part.value == pytest.approx(compute_published(training[name], samples[name]))
        assert 0 <= part.low <= part.value <= part.high and part.error > 0
    assert score.value == pytest.approx(np.mean([math.exp(-part.value) for part in parts.values()]))
    assert 0 < score.low < score.value < score.high < 1


def test_internal_similarity_is_that_to_the_most_similar_other_molecule():
    bits = np.random.default_rng(0).integers(0, 256, (9, 512), dtype=np.uint8)
    expected = tanimoto.compute_nearest_other_similarity(bits)
    np.testing.assert_array_equal(guacamol.compute_internal_similarity(bits), expected)
    assert guacamol.compute_internal_similarity(bits[[0, 1, 0]]).tolist()[::2] == [1, 1]
