"""The Fréchet ChemNet distance: that of the formula, on the activations that fcd_torch computes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
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


def test_activations_are_those_of_fcd_torch(smiles, monkeypatch):
    from fcd_torch.utils import SmilesDataset

    texts = [standardise(one) for one in smiles[:20]]
    monkeypatch.setattr(fcd, "BATCH", 7)  # the last one is shorter
    found = fcd.activations(texts)
    assert found.shape == (20, 512)
    inputs = np.stack([SmilesDataset(texts)[k] for k in range(20)])  # it canonicalises, encodes and scales
    with torch.inference_mode():
        expected = fcd._chemnet()(torch.from_numpy(inputs).float().transpose(1, 2)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.unique(found.round(6), axis=0).shape == found.shape


def test_the_shipped_reference_is_a_mean_and_a_covariance():
    reference = fcd.moses_test()
    assert reference.mu.shape == (512,) and reference.sigma.shape == (512, 512) and reference.n == 176_074
    np.testing.assert_allclose(reference.sigma, reference.sigma.T, atol=1e-6)
    assert np.linalg.eigvalsh(reference.sigma).min() > -1e-6
    assert frechet_distance(reference, reference) == pytest.approx(0, abs=1e-4)


def test_fewer_than_two_molecules_have_no_distance():
    with pytest.raises(DataError, match="FCD needs at least 2 valid molecules, there are 1"):
        fcd.statistics(["C"])
