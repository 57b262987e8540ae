"""The metrics of MOSES: their definitions written out, their errors beside a bootstrap's."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from scipy.spatial import distance
from scipy.stats import wasserstein_distance

from molvae.metrics import moses, tanimoto
from molvae.metrics.intervals import of_mean

NAMES = [f"part{n}" for n in range(60)]
REFERENCE = {name: 400 // (n + 1) for n, name in enumerate(NAMES[:50])}  # ten of the names are not in it
CENTRES = np.random.default_rng(1).random((12, 128)) ** 3


def parts(random: np.random.Generator, n: int = 400) -> list[list[str]]:
    """Samples of no to four parts, some often."""
    return [[NAMES[k] for k in (60 * random.random(random.integers(5)) ** 2).astype(int)] for _ in range(n)]


def numbers(random: np.random.Generator, n: int = 300) -> np.ndarray:
    return random.gamma(3, 1.0, n)


def fingerprints(random: np.random.Generator, n: int = 200) -> np.ndarray:
    """Packed fingerprints of a dozen families, some larger."""
    families = random.choice(12, n, p=np.arange(1, 13) / 78)
    return np.packbits(random.random((n, 128)) < CENTRES[families], axis=1)


def cosine(samples):
    return moses.cosine(samples, REFERENCE)


def wasserstein(values):
    return moses.wasserstein(values, np.linspace(2, 5, 500))  # narrower: samples lie on either side


def internal(fingerprints):
    return moses.diversities(fingerprints)[0]


def second_internal(fingerprints):
    return moses.diversities(fingerprints)[1]


def pairs(packed: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(packed, axis=1).astype(float)
    common = bits @ bits.T
    return common / (bits.sum(1)[:, None] + bits.sum(1) - common)


def test_the_cosine_is_that_of_the_counts_of_all_samples_together():
    samples = parts(np.random.default_rng(0))
    total = Counter(chain.from_iterable(samples))
    expected = 1 - distance.cosine([total[name] for name in NAMES], [REFERENCE.get(name, 0) for name in NAMES])
    found = cosine(samples)
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.low < found.value < found.high
    assert moses.cosine([["a"], ["a", "b"]], {"a": 4, "b": 2}).value == pytest.approx(1)
    assert moses.cosine([["a"], []], {"b": 1}).value == 0


@pytest.mark.parametrize(("samples", "reference"), [([], {"a": 1}), ([[], []], {"a": 1}), ([["a"]], {})])
def test_there_is_no_cosine_where_nothing_was_counted(samples, reference):
    assert moses.cosine(samples, reference) == (None, None, None, None)


def test_the_wasserstein_distance_is_that_of_scipy_in_the_unit_of_the_numbers():
    random = np.random.default_rng(0)
    for values in (numbers(random), numbers(random).round(), -numbers(random, 7)):
        reference = random.normal(2, 1, 50).round(1)  # some are the same
        assert moses.wasserstein(values, reference).value == pytest.approx(wasserstein_distance(values, reference))
    shifted = moses.wasserstein(np.array([1.0, 2.0, 3.0]) + 7, np.array([1.0, 2.0, 3.0]))
    assert shifted.value == pytest.approx(7)
    assert shifted.error == pytest.approx(math.sqrt(2 / 3) / math.sqrt(3), rel=0.2)  # above all of them it is a mean's


def test_diversities_are_those_of_all_pairs():
    random = np.random.default_rng(0)
    packed = fingerprints(random, 100)[random.integers(100, size=150)]  # some of them several times
    one, other = moses.diversities(packed)
    similar = pairs(packed)
    assert one.value == pytest.approx(1 - similar.mean(), abs=1e-6)
    assert other.value == pytest.approx(1 - np.sqrt((similar**2).mean(1)).mean(), abs=1e-6)
    assert other.value != pytest.approx(1 - np.sqrt((similar**2).mean()), abs=1e-3)  # what the paper has
    alike = moses.diversities(np.repeat(packed[:1], 5, axis=0))
    assert [estimate.value for estimate in alike] == pytest.approx([0, 0], abs=1e-6)


def test_snn_is_the_mean_similarity_to_the_nearest():
    random = np.random.default_rng(0)
    packed, references = fingerprints(random, 40), fingerprints(random, 30)
    found = moses.snn(packed, references)
    assert found == of_mean(tanimoto.nearest(packed, references), 0, 1)
    assert found.value < moses.snn(references, references).value == 1


@pytest.mark.parametrize(
    ("of", "draw", "tolerance"),
    [(cosine, parts, 0.15), (wasserstein, numbers, 0.15), (internal, fingerprints, 0.2),
     (second_internal, fingerprints, 0.2)],
)  # fmt: skip
def test_the_error_is_that_of_a_bootstrap(of, draw, tolerance):
    random = np.random.default_rng(0)
    samples = draw(random)
    rows = random.integers(len(samples), size=(1000, len(samples)))
    resampled = (samples[some] if isinstance(samples, np.ndarray) else [samples[row] for row in some] for some in rows)
    found = [of(one).value for one in resampled]
    assert of(samples).error == pytest.approx(np.std(found), rel=tolerance)


@pytest.mark.parametrize(
    ("of", "draw"),
    [(cosine, parts), (wasserstein, numbers), (internal, fingerprints), (second_internal, fingerprints)],
)
def test_nineteen_of_twenty_intervals_hold_the_truth(of, draw):
    found = [of(draw(np.random.default_rng(seed))) for seed in range(200)]
    truth = np.mean([estimate.value for estimate in found])
    assert 0.9 <= np.mean([estimate.low <= truth <= estimate.high for estimate in found]) <= 0.99
    assert np.mean([estimate.error for estimate in found]) < truth / 5  # of some use
