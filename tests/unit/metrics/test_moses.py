"""The metrics of MOSES: equal to their definitions written out, with the errors of a bootstrap."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from scipy.spatial import distance
from scipy.stats import wasserstein_distance

from molvae.metrics import moses, tanimoto
from molvae.metrics.intervals import estimate_mean

NAMES = [f"part{n}" for n in range(60)]
REFERENCE = {name: 400 // (n + 1) for n, name in enumerate(NAMES[:50])}  # ten of the names are not in it
CENTRES = np.random.default_rng(1).random((12, 128)) ** 3


def draw_parts(random: np.random.Generator, n: int = 400) -> list[list[str]]:
    """Draw samples of no to four parts, of which a few are frequent."""
    return [[NAMES[k] for k in (60 * random.random(random.integers(5)) ** 2).astype(int)] for _ in range(n)]


def draw_numbers(random: np.random.Generator, n: int = 300) -> np.ndarray:
    return random.gamma(3, 1.0, n)


def draw_fingerprints(random: np.random.Generator, n: int = 200) -> np.ndarray:
    """Draw packed fingerprints of a dozen families of different sizes."""
    families = random.choice(12, n, p=np.arange(1, 13) / 78)
    return np.packbits(random.random((n, 128)) < CENTRES[families], axis=1)


def compute_cosine(samples):
    return moses.compute_cosine(samples, REFERENCE)


def compute_wasserstein(values):
    return moses.compute_wasserstein(values, np.linspace(2, 5, 500))  # narrower: samples lie on either side


def compute_int_div(fingerprints):
    return moses.compute_internal_diversities(fingerprints)[0]


def compute_int_div2(fingerprints):
    return moses.compute_internal_diversities(fingerprints)[1]


def compute_similarities(packed: np.ndarray) -> np.ndarray:
    """Compute the Tanimoto similarities of all pairs."""
    bits = np.unpackbits(packed, axis=1).astype(float)
    common = bits @ bits.T
    return common / (bits.sum(1)[:, None] + bits.sum(1) - common)


def test_cosine_is_that_of_the_counts_of_all_samples_together():
    samples = draw_parts(np.random.default_rng(0))
    total = Counter(chain.from_iterable(samples))
    expected = 1 - distance.cosine([total[name] for name in NAMES], [REFERENCE.get(name, 0) for name in NAMES])
    estimate = compute_cosine(samples)
    assert estimate.value == pytest.approx(expected, rel=1e-12)
    assert estimate.low < estimate.value < estimate.high
    assert moses.compute_cosine([["a"], ["a", "b"]], {"a": 4, "b": 2}).value == pytest.approx(1)
    assert moses.compute_cosine([["a"], []], {"b": 1}).value == 0


@pytest.mark.parametrize(("samples", "reference"), [([], {"a": 1}), ([[], []], {"a": 1}), ([["a"]], {})])
def test_cosine_of_samples_or_a_reference_without_counts_is_undefined(samples, reference):
    assert moses.compute_cosine(samples, reference) == (None, None, None, None)


def test_wasserstein_distance_is_that_of_scipy_in_the_unit_of_the_numbers():
    random = np.random.default_rng(0)
    for values in (draw_numbers(random), draw_numbers(random).round(), -draw_numbers(random, 7)):
        reference = random.normal(2, 1, 50).round(1)  # with repeated values
        expected = wasserstein_distance(values, reference)
        assert moses.compute_wasserstein(values, reference).value == pytest.approx(expected)
    shifted = moses.compute_wasserstein(np.array([1.0, 2.0, 3.0]) + 7, np.array([1.0, 2.0, 3.0]))
    assert shifted.value == pytest.approx(7)
    assert shifted.error == pytest.approx(math.sqrt(2 / 3) / math.sqrt(3), rel=0.2)  # above all of them it is a mean's


def test_internal_diversities_are_those_of_all_pairs():
    random = np.random.default_rng(0)
    packed = draw_fingerprints(random, 100)[random.integers(100, size=150)]  # with repeated fingerprints
    int_div, int_div2 = moses.compute_internal_diversities(packed)
    similarities = compute_similarities(packed)
    assert int_div.value == pytest.approx(1 - similarities.mean(), abs=1e-6)
    assert int_div2.value == pytest.approx(1 - np.sqrt((similarities**2).mean(1)).mean(), abs=1e-6)
    assert int_div2.value != pytest.approx(1 - np.sqrt((similarities**2).mean()), abs=1e-3)  # what the paper has
    identical = moses.compute_internal_diversities(np.repeat(packed[:1], 5, axis=0))
    assert [estimate.value for estimate in identical] == pytest.approx([0, 0], abs=1e-6)


def test_snn_is_the_mean_similarity_to_the_nearest_reference():
    random = np.random.default_rng(0)
    packed, references = draw_fingerprints(random, 40), draw_fingerprints(random, 30)
    estimate = moses.compute_snn(packed, references)
    assert estimate == estimate_mean(tanimoto.compute_nearest_similarity(packed, references), 0, 1)
    assert estimate.value < moses.compute_snn(references, references).value == 1


@pytest.mark.parametrize(
    ("compute", "draw", "tolerance"),
    [
        (compute_cosine, draw_parts, 0.15),
        (compute_wasserstein, draw_numbers, 0.15),
        (compute_int_div, draw_fingerprints, 0.2),
        (compute_int_div2, draw_fingerprints, 0.2),
    ],
)
def test_errors_of_moses_metrics_equal_those_of_a_bootstrap(compute, draw, tolerance):
    random = np.random.default_rng(0)
    samples = draw(random)
    resamples = random.integers(len(samples), size=(1000, len(samples)))
    values = [
        compute(samples[rows] if isinstance(samples, np.ndarray) else [samples[row] for row in rows]).value
        for rows in resamples
    ]
    assert compute(samples).error == pytest.approx(np.std(values), rel=tolerance)


@pytest.mark.parametrize(
    ("compute", "draw"),
    [
        (compute_cosine, draw_parts),
        (compute_wasserstein, draw_numbers),
        (compute_int_div, draw_fingerprints),
        (compute_int_div2, draw_fingerprints),
    ],
)
def test_intervals_of_moses_metrics_hold_the_mean_of_repetitions_nineteen_times_of_twenty(compute, draw):
    estimates = [compute(draw(np.random.default_rng(seed))) for seed in range(200)]
    truth = np.mean([estimate.value for estimate in estimates])
    assert 0.9 <= np.mean([estimate.low <= truth <= estimate.high for estimate in estimates]) <= 0.99
    assert np.mean([estimate.error for estimate in estimates]) < truth / 5  # narrow enough to be useful
