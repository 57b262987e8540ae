"""Tanimoto similarities in blocks: equal to those of a plain computation in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molvae.metrics import tanimoto

BITS = 1024
# bits set: few, about as many as a digit of the packed product holds, many more than that
bit_counts = st.lists(st.sampled_from([0, 1, 2, 30, 62, 63, 64, 65, 66, 300, BITS]), min_size=1, max_size=40)
block_sizes = st.sampled_from([(1024, 2048), (7, 5), (3, 16), (1, 1)])


def draw_fingerprints(n_bits, seed: int, among: slice = slice(None)) -> np.ndarray:
    """Draw packed fingerprints with the given numbers of bits, at random places of a part of them."""
    random = np.random.default_rng(seed)
    bits = np.zeros((len(n_bits), BITS), dtype=np.uint8)
    for row, count in zip(bits[:, among], n_bits, strict=True):
        row[random.permutation(len(row))[:count]] = 1
    return np.packbits(bits, axis=1)


def compute_similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a, b = (np.unpackbits(packed, axis=1).astype(float) for packed in (first, second))
    common = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1) - common
    return np.divide(common, union, out=np.ones_like(union), where=union > 0)


@contextmanager
def use_block_sizes(rows: int, columns: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tanimoto, "ROWS", rows)
        patch.setattr(tanimoto, "COLUMNS", columns)
        yield


def test_similarity_of_two_fingerprints_is_their_common_bits_over_all_bits():
    assert tanimoto.compute_similarity(bytes([0b1100, 0b1]), bytes([0b0110, 0b1])) == 2 / 4
    assert tanimoto.compute_similarity(bytes([1]), bytes([2])) == 0
    assert tanimoto.compute_similarity(bytes(2), bytes(2)) == 1
    first, second = (draw_fingerprints([300], seed) for seed in range(2))
    expected = compute_similarities(first, second).item()
    assert tanimoto.compute_similarity(first.tobytes(), second.tobytes()) == pytest.approx(expected, rel=1e-12)


@given(block_sizes, bit_counts, bit_counts, st.integers(0, 10**6))
def test_nearest_similarity_is_the_maximum_over_all_pairs_whatever_the_block_sizes(
    block_size, n_bits, reference_n_bits, seed
):
    fingerprints, references = draw_fingerprints(n_bits, seed), draw_fingerprints(reference_n_bits, seed + 1)
    references[:1] = fingerprints[-1]  # so that a fingerprint is among the references
    with use_block_sizes(*block_size):
        nearest = tanimoto.compute_nearest_similarity(fingerprints, references)
    assert nearest.shape == (len(n_bits),) and nearest.dtype == np.float32
    np.testing.assert_allclose(nearest, compute_similarities(fingerprints, references).max(1), rtol=1e-6)


@given(block_sizes, bit_counts, st.integers(0, 10**6))
def test_nearest_other_similarity_leaves_out_a_fingerprint_itself_but_not_its_duplicates(block_size, n_bits, seed):
    distinct = draw_fingerprints(n_bits, seed)
    rows = np.random.default_rng(seed).integers(len(distinct), size=len(distinct) + 1)
    fingerprints = distinct[rows]  # with duplicates
    pairs = compute_similarities(fingerprints, fingerprints)
    np.fill_diagonal(pairs, 0)
    with use_block_sizes(*block_size):
        nearest = tanimoto.compute_nearest_other_similarity(fingerprints)
    np.testing.assert_allclose(nearest, pairs.max(1), rtol=1e-6)


@given(block_sizes, bit_counts, st.integers(0, 10**6))
def test_mean_similarities_are_weighted_means_over_all_pairs_with_each_fingerprint_itself(block_size, n_bits, seed):
    fingerprints = draw_fingerprints(n_bits, seed)
    counts = np.random.default_rng(seed).integers(1, 9, len(fingerprints))
    with use_block_sizes(*block_size):
        means = tanimoto.compute_mean_similarities(fingerprints, counts)
    pairs = compute_similarities(fingerprints, fingerprints)
    square = np.average(pairs**2, axis=1, weights=counts)
    np.testing.assert_allclose(means.similarity, np.average(pairs, axis=1, weights=counts), rtol=1e-5)
    np.testing.assert_allclose(means.square, square, rtol=1e-5)
    scaled = np.average(pairs**2 / np.sqrt(square), axis=1, weights=counts)
    np.testing.assert_allclose(means.scaled_square, scaled, rtol=0.03)  # the roots are estimated


@given(bit_counts, st.integers(0, 10**6))
def test_mean_similarities_of_a_fingerprint_counted_several_times_equal_those_of_its_copies(n_bits, seed):
    fingerprints = draw_fingerprints(n_bits, seed)
    counts = np.random.default_rng(seed).integers(1, 5, len(fingerprints))
    counted = tanimoto.compute_mean_similarities(fingerprints, counts)
    copied = tanimoto.compute_mean_similarities(np.repeat(fingerprints, counts, 0), np.ones(counts.sum()))
    for counted_means, copied_means, tolerance in zip(counted, copied, (1e-5, 1e-5, 0.05), strict=True):
        np.testing.assert_allclose(np.repeat(counted_means, counts), copied_means, rtol=tolerance)


@pytest.mark.parametrize(
    "among", [slice(0, BITS // 2), slice(BITS // 2, BITS), slice(None)], ids=["low", "high", "all"]
)
@pytest.mark.parametrize("n_bits", [63, 64, 127, 128])
def test_similarities_of_identical_fingerprints_are_exactly_one_whichever_half_their_bits_are_in(n_bits, among):
    copies = np.repeat(draw_fingerprints([n_bits], 0, among), 3, axis=0)
    np.testing.assert_array_equal(tanimoto.compute_nearest_similarity(copies, copies), 1)
    np.testing.assert_array_equal(tanimoto.compute_nearest_other_similarity(copies), 1)
    np.testing.assert_array_equal(tanimoto.compute_mean_similarities(copies, np.ones(3)).similarity, 1)


def test_similarity_of_bits_in_different_halves_is_zero_although_they_meet_in_the_packed_product():
    low, high = (draw_fingerprints([63], 0, half) for half in (slice(0, BITS // 2), slice(BITS // 2, BITS)))
    assert np.unpackbits(np.roll(low, 64)).tolist() == np.unpackbits(high).tolist()
    assert tanimoto.compute_nearest_similarity(low, high) == 0
    assert tanimoto.compute_nearest_other_similarity(np.concatenate([low, high])).tolist() == [0, 0]


def test_similarities_stand_in_the_order_of_the_input():
    fingerprints = draw_fingerprints(np.arange(200) * 5 % 199 + 1, seed=0)  # blocks take those with few bits first
    shuffled = np.random.default_rng(0).permutation(200)
    for compute in (
        lambda part: tanimoto.compute_nearest_similarity(part, fingerprints[:20]),
        tanimoto.compute_nearest_other_similarity,
        lambda part: tanimoto.compute_mean_similarities(part, np.ones(len(part))).similarity,
    ):
        np.testing.assert_allclose(compute(fingerprints[shuffled]), compute(fingerprints)[shuffled], rtol=1e-6)
        assert len(np.unique(compute(fingerprints))) > 20
    nearest = tanimoto.compute_nearest_similarity(fingerprints, fingerprints[100:])
    np.testing.assert_array_equal(nearest[100:], 1)
    assert (nearest[:100] < 1).all()


def test_scaled_squares_of_a_large_set_are_estimated_well_enough_on_a_thousand_of_it():
    n_bits = np.random.default_rng(0).integers(30, 120, 1500)
    fingerprints = draw_fingerprints(n_bits, 0, slice(0, 200))  # as alike as molecules
    pairs = compute_similarities(fingerprints, fingerprints)
    square = (pairs**2).mean(1)
    means = tanimoto.compute_mean_similarities(fingerprints, np.ones(1500))
    np.testing.assert_allclose(means.square, square, rtol=1e-5)
    scaled = (pairs**2 / np.sqrt(square)).mean(1)
    np.testing.assert_allclose(means.scaled_square, scaled, rtol=0.05)
    assert abs(means.scaled_square / np.sqrt(square).mean() - 1).max() > 0.2  # it is not the same for all


def test_single_fingerprint_has_no_other_and_an_empty_set_has_no_similarities():
    assert tanimoto.compute_nearest_other_similarity(draw_fingerprints([5], 0)).tolist() == [0]
    assert tanimoto.compute_nearest_other_similarity(draw_fingerprints([], 0)).shape == (0,)
    assert tanimoto.compute_nearest_similarity(draw_fingerprints([], 0), draw_fingerprints([3], 0)).shape == (0,)
