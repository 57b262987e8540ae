"""The Fréchet ChemNet distance: that of the formula, with the error that a bootstrap finds."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from molvae.chemistry.standardise import standardise
from molvae.errors import DataError
from molvae.metrics import fcd
from molvae.metrics.fcd import Statistics, compute_frechet_distance


def draw_gaussian(seed: int, dimensions: int, samples: int) -> Statistics:
    random = np.random.default_rng(seed)
    points = random.normal(size=(samples, dimensions)) @ random.normal(size=(dimensions, dimensions))
    points += random.normal(size=dimensions)
    return Statistics(points.mean(0), np.cov(points.T), samples)


def draw_activations(seed: int, n: int, dimensions: int = 8) -> np.ndarray:
    """Draw from a Gaussian that is the same for all seeds."""
    shape = np.random.default_rng(9)
    spread, middle = shape.normal(size=(dimensions, dimensions)), shape.normal(size=dimensions)
    return np.random.default_rng(seed).normal(size=(n, dimensions)) @ spread + middle


@pytest.fixture(scope="module")
def reference() -> Statistics:
    return draw_gaussian(1, 8, 400)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 12), st.booleans())
def test_frechet_distance_equals_that_with_a_general_matrix_root_also_for_singular_covariances(
    seed, dimensions, is_singular
):
    first = draw_gaussian(seed, dimensions, dimensions if is_singular else 50)
    second = draw_gaussian(seed + 1, dimensions, 50)
    root = scipy.linalg.sqrtm(first.sigma @ second.sigma)
    expected = ((first.mu - second.mu) ** 2).sum() + np.trace(first.sigma + second.sigma - 2 * root.real)
    distance = compute_frechet_distance(first, second)
    assert distance == pytest.approx(expected, rel=1e-3 if is_singular else 1e-6)
    assert compute_frechet_distance(second, first) == pytest.approx(distance, rel=1e-6)


def test_frechet_distance_of_normals_on_axes_is_the_sum_of_squared_differences():
    first = Statistics(np.array([0.0, 1.0]), np.diag([1.0, 4.0]), 9)
    second = Statistics(np.array([3.0, 1.0]), np.diag([9.0, 4.0]), 9)
    assert compute_frechet_distance(first, second) == pytest.approx(9 + (1 - 3) ** 2)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_smaller_between_similar_sets(smiles):
    drugs = fcd.compute_statistics([standardise(text) for text in smiles])
    assert compute_frechet_distance(drugs, drugs) == pytest.approx(0, abs=1e-4)
    alkanes = fcd.compute_statistics(["C" * n for n in range(1, 20)])
    longer = fcd.compute_statistics(["C" * n for n in range(3, 22)])
    assert 0 < compute_frechet_distance(alkanes, longer) < compute_frechet_distance(alkanes, drugs)


def test_activation_statistics_are_mean_and_covariance_whatever_the_block_size(monkeypatch):
    activations = draw_activations(0, 50).astype(np.float32)
    for block in (65_536, 7, 50, 1):  # 7: the last block has one row
        monkeypatch.setattr(fcd, "BATCH_SIZE", block)
        statistics = fcd.compute_activation_statistics(activations)
        assert statistics.n == 50 and statistics.sigma.dtype == np.float64
        np.testing.assert_allclose(statistics.mu, activations.astype(float).mean(0), rtol=1e-12)
        np.testing.assert_allclose(statistics.sigma, np.cov(activations.T.astype(float)), rtol=1e-9, atol=1e-12)


def test_published_moses_test_statistics_are_a_mean_and_a_covariance():
    reference = fcd.load_moses_test_statistics()
    assert reference.mu.shape == (512,) and reference.sigma.shape == (512, 512) and reference.n == 176_074
    np.testing.assert_allclose(reference.sigma, reference.sigma.T, atol=1e-6)
    assert np.linalg.eigvalsh(reference.sigma).min() > -1e-6
    assert compute_frechet_distance(reference, reference) == pytest.approx(0, abs=1e-4)


def test_fcd_statistics_of_fewer_than_two_molecules_are_an_error():
    with pytest.raises(DataError, match="FCD needs at least 2 valid molecules, there are 1"):
        fcd.compute_statistics(["C"])


def test_fcd_estimate_has_the_distance_for_its_value_whatever_the_block_size(reference, monkeypatch):
    activations = draw_activations(0, 200)
    estimate = fcd.estimate_fcd(activations, reference)
    distance = compute_frechet_distance(fcd.compute_activation_statistics(activations), reference)
    assert estimate.value == pytest.approx(distance, rel=1e-9)
    assert 0 < estimate.low < estimate.value < estimate.high
    monkeypatch.setattr(fcd, "BATCH_SIZE", 37)  # the last block is shorter
    assert fcd.estimate_fcd(activations, reference) == pytest.approx(estimate, rel=1e-9)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 20.0], ids=["all shape", "shape and place", "all place"])
def test_fcd_error_equals_that_of_a_bootstrap(reference, fraction):
    activations = draw_activations(0, 400)
    sampled = fcd.compute_activation_statistics(activations)
    shifted = Statistics(sampled.mu + fraction * (reference.mu - sampled.mu), reference.sigma, 400)
    resamples = np.random.default_rng(0).integers(400, size=(1000, 400))
    distances = [
        compute_frechet_distance(fcd.compute_activation_statistics(activations[rows]), shifted) for rows in resamples
    ]
    assert fcd.estimate_fcd(activations, shifted).error == pytest.approx(np.std(distances), rel=0.15)


def test_fcd_intervals_hold_the_mean_of_repetitions_nineteen_times_of_twenty(reference):
    estimates = [fcd.estimate_fcd(draw_activations(seed, 300), reference) for seed in range(200)]
    truth = np.mean([estimate.value for estimate in estimates])
    assert 0.9 <= np.mean([estimate.low <= truth <= estimate.high for estimate in estimates]) <= 0.99
    assert np.mean([estimate.error for estimate in estimates]) < truth / 5  # narrow enough to be useful


def test_fcd_of_fewer_molecules_than_activations_has_an_interval(smiles):
    activations = fcd.compute_activations([standardise(text) for text in smiles])
    estimate = fcd.estimate_fcd(activations[:12], fcd.compute_activation_statistics(activations))
    assert 0 <= estimate.low < estimate.value < estimate.high and np.isfinite(estimate.error)
