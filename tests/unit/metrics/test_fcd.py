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
from molvae.metrics.fcd import Statistics, frechet_distance


def gaussian(seed: int, dimensions: int, samples: int) -> Statistics:
    draw = np.random.default_rng(seed)
    points = draw.normal(size=(samples, dimensions)) @ draw.normal(size=(dimensions, dimensions)) + draw.normal(
        size=dimensions
    )
    return Statistics(points.mean(0), np.cov(points.T), samples)


def activations(seed: int, n: int, dimensions: int = 8) -> np.ndarray:
    """Draws from a Gaussian that is the same for all seeds."""
    shape = np.random.default_rng(9)
    spread, middle = shape.normal(size=(dimensions, dimensions)), shape.normal(size=dimensions)
    return np.random.default_rng(seed).normal(size=(n, dimensions)) @ spread + middle


@pytest.fixture(scope="module")
def reference() -> Statistics:
    return gaussian(1, 8, 400)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 12), st.booleans())
def test_the_distance_is_that_of_a_general_matrix_root_also_where_a_covariance_is_singular(seed, dimensions, singular):
    one, other = gaussian(seed, dimensions, dimensions if singular else 50), gaussian(seed + 1, dimensions, 50)
    root = scipy.linalg.sqrtm(one.sigma @ other.sigma)
    expected = ((one.mu - other.mu) ** 2).sum() + np.trace(one.sigma + other.sigma - 2 * root.real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-3 if singular else 1e-6)
    assert frechet_distance(other, one) == pytest.approx(frechet_distance(one, other), rel=1e-6)


def test_a_distance_worked_by_hand():
    one = Statistics(np.array([0.0, 1.0]), np.diag([1.0, 4.0]), 9)
    other = Statistics(np.array([3.0, 1.0]), np.diag([9.0, 4.0]), 9)
    assert frechet_distance(one, other) == pytest.approx(9 + (1 - 3) ** 2)  # of normals on axes: squares of differences


def test_a_set_is_at_no_distance_from_itself_and_nearer_to_its_like(smiles):
    own = fcd.statistics([standardise(one) for one in smiles])
    assert frechet_distance(own, own) == pytest.approx(0, abs=1e-4)
    alkanes = fcd.statistics(["C" * n for n in range(1, 20)])
    longer = fcd.statistics(["C" * n for n in range(3, 22)])
    assert 0 < frechet_distance(alkanes, longer) < frechet_distance(alkanes, own)


def test_statistics_are_the_mean_and_the_covariance_whatever_the_blocks(monkeypatch):
    found = activations(0, 50).astype(np.float32)
    for block in (65_536, 7, 50, 1):  # 7: the last one has one row
        monkeypatch.setattr(fcd, "BLOCK", block)
        own = fcd.statistics_of(found)
        assert own.n == 50 and own.sigma.dtype == np.float64
        np.testing.assert_allclose(own.mu, found.astype(float).mean(0), rtol=1e-12)
        np.testing.assert_allclose(own.sigma, np.cov(found.T.astype(float)), rtol=1e-9, atol=1e-12)


def test_the_shipped_reference_is_a_mean_and_a_covariance():
    reference = fcd.moses_test()
    assert reference.mu.shape == (512,) and reference.sigma.shape == (512, 512) and reference.n == 176_074
    np.testing.assert_allclose(reference.sigma, reference.sigma.T, atol=1e-6)
    assert np.linalg.eigvalsh(reference.sigma).min() > -1e-6
    assert frechet_distance(reference, reference) == pytest.approx(0, abs=1e-4)


def test_fewer_than_two_molecules_have_no_distance():
    with pytest.raises(DataError, match="FCD needs at least 2 valid molecules, there are 1"):
        fcd.statistics(["C"])


def test_an_estimate_has_the_distance_for_its_value_and_is_the_same_in_blocks(reference, monkeypatch):
    found = activations(0, 200)
    estimate = fcd.estimate(found, reference)
    assert estimate.value == pytest.approx(frechet_distance(fcd.statistics_of(found), reference), rel=1e-9)
    assert 0 < estimate.low < estimate.value < estimate.high
    monkeypatch.setattr(fcd, "BLOCK", 37)  # the last one is shorter
    assert fcd.estimate(found, reference) == pytest.approx(estimate, rel=1e-9)


@pytest.mark.parametrize("share", [0.0, 1.0, 20.0], ids=["all shape", "both", "all place"])
def test_the_error_is_that_of_a_bootstrap(reference, share):
    found = activations(0, 400)
    own = fcd.statistics_of(found)
    elsewhere = Statistics(own.mu + share * (reference.mu - own.mu), reference.sigma, 400)
    rows = np.random.default_rng(0).integers(400, size=(1000, 400))
    resampled = [frechet_distance(fcd.statistics_of(found[some]), elsewhere) for some in rows]
    assert fcd.estimate(found, elsewhere).error == pytest.approx(np.std(resampled), rel=0.15)


def test_nineteen_of_twenty_intervals_hold_the_truth(reference):
    found = [fcd.estimate(activations(seed, 300), reference) for seed in range(200)]
    truth = np.mean([estimate.value for estimate in found])
    assert 0.9 <= np.mean([estimate.low <= truth <= estimate.high for estimate in found]) <= 0.99
    assert np.mean([estimate.error for estimate in found]) < truth / 5  # of some use


def test_molecules_fewer_than_the_activations_have_an_estimate_too(smiles):
    own = fcd.activations([standardise(one) for one in smiles])
    found = fcd.estimate(own[:12], fcd.statistics_of(own))
    assert 0 <= found.low < found.value < found.high and np.isfinite(found.error)
