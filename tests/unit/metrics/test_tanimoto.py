"""Tanimoto similarities in blocks: those of a plain computation in double precision."""

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
counts = st.sampled_from([0, 1, 2, 30, 62, 63, 64, 65, 66, 300, BITS])
sets = st.lists(counts, min_size=1, max_size=40)


def with_bits(numbers, seed: int, among: slice = slice(None)) -> np.ndarray:
    """Packed fingerprints, so many bits in each, at random places of a part of them."""
    random = np.random.default_rng(seed)
    bits = np.zeros((len(numbers), BITS), dtype=np.uint8)
    for row, number in zip(bits[:, among], numbers, strict=True):
        row[random.permutation(len(row))[:number]] = 1
    return np.packbits(bits, axis=1)


def similarities(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    a, b = (np.unpackbits(packed, axis=1).astype(float) for packed in (one, other))
    common = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1) - common
    return np.divide(common, union, out=np.ones_like(union), where=union > 0)


@contextmanager
def in_blocks_of(rows: int, columns: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tanimoto, "ROWS", rows)
        patch.setattr(tanimoto, "COLUMNS", columns)
        yield


blocks = st.sampled_from([(1024, 2048), (7, 5), (3, 16), (1, 1)])


@given(blocks, sets, sets, st.integers(0, 10**6))
def test_the_nearest_reference_is_that_of_all_pairs_whatever_the_blocks(blocks, numbers, others, seed):
    own, references = with_bits(numbers, seed), with_bits(others, seed + 1)
    references[:1] = own[-1]  # one is among the references
    with in_blocks_of(*blocks):
        found = tanimoto.nearest(own, references)
    assert found.shape == (len(numbers),) and found.dtype == np.float32
    np.testing.assert_allclose(found, similarities(own, references).max(1), rtol=1e-6)


@given(blocks, sets, st.integers(0, 10**6))
def test_the_nearest_other_leaves_out_the_fingerprint_itself_but_not_its_like(blocks, numbers, seed):
    own = with_bits(numbers, seed)
    own = own[np.random.default_rng(seed).integers(len(own), size=len(own) + 1)]  # so that some stand there twice
    pairs = similarities(own, own)
    np.fill_diagonal(pairs, 0)
    with in_blocks_of(*blocks):
        found = tanimoto.nearest_other(own)
    np.testing.assert_allclose(found, pairs.max(1), rtol=1e-6)


@given(blocks, sets, st.integers(0, 10**6))
def test_means_are_those_of_all_pairs_each_with_itself_and_as_often_as_it_occurs(blocks, numbers, seed):
    own = with_bits(numbers, seed)
    counts = np.random.default_rng(seed).integers(1, 9, len(own))
    with in_blocks_of(*blocks):
        found = tanimoto.means(own, counts)
    pairs = similarities(own, own)
    square = np.average(pairs**2, axis=1, weights=counts)
    np.testing.assert_allclose(found.similarity, np.average(pairs, axis=1, weights=counts), rtol=1e-5)
    np.testing.assert_allclose(found.square, square, rtol=1e-5)
    scaled = np.average(pairs**2 / np.sqrt(square), axis=1, weights=counts)
    np.testing.assert_allclose(found.scaled_square, scaled, rtol=0.03)  # the roots are estimated


@given(sets, st.integers(0, 10**6))
def test_a_fingerprint_that_counts_several_times_is_as_good_as_several(numbers, seed):
    own = with_bits(numbers, seed)
    counts = np.random.default_rng(seed).integers(1, 5, len(own))
    together, apart = tanimoto.means(own, counts), tanimoto.means(np.repeat(own, counts, 0), np.ones(counts.sum()))
    for one, other, tolerance in zip(together, apart, (1e-5, 1e-5, 0.05), strict=True):
        np.testing.assert_allclose(np.repeat(one, counts), other, rtol=tolerance)


@pytest.mark.parametrize(
    "among", [slice(0, BITS // 2), slice(BITS // 2, BITS), slice(None)], ids=["low", "high", "all"]
)
@pytest.mark.parametrize("number", [63, 64, 127, 128])
def test_common_bits_are_exact_where_all_of_them_are_common_and_stand_in_one_half(number, among):
    alike = np.repeat(with_bits([number], 0, among), 3, axis=0)
    np.testing.assert_array_equal(tanimoto.nearest(alike, alike), 1)
    np.testing.assert_array_equal(tanimoto.nearest_other(alike), 1)
    np.testing.assert_array_equal(tanimoto.means(alike, np.ones(3)).similarity, 1)


def test_few_bits_in_one_half_have_nothing_in_common_with_as_many_in_the_other():
    low, high = (with_bits([63], 0, half) for half in (slice(0, BITS // 2), slice(BITS // 2, BITS)))
    assert np.unpackbits(np.roll(low, 64)).tolist() == np.unpackbits(high).tolist()  # they meet in the packed product
    assert tanimoto.nearest(low, high) == 0
    assert tanimoto.nearest_other(np.concatenate([low, high])).tolist() == [0, 0]


def test_results_stand_in_the_order_of_the_input():
    own = with_bits(np.arange(200) * 5 % 199 + 1, seed=0)  # blocks take those with few bits first
    shuffled = np.random.default_rng(0).permutation(200)
    for of in (
        lambda some: tanimoto.nearest(some, own[:20]),
        tanimoto.nearest_other,
        lambda some: tanimoto.means(some, np.ones(len(some))).similarity,
    ):
        np.testing.assert_allclose(of(own[shuffled]), of(own)[shuffled], rtol=1e-6)
        assert len(np.unique(of(own))) > 20
    np.testing.assert_array_equal(tanimoto.nearest(own, own[100:])[100:], 1)
    assert (tanimoto.nearest(own, own[100:])[:100] < 1).all()


def test_the_scale_of_a_large_set_is_estimated_well_enough_on_a_thousand_of_it():
    own = with_bits(np.random.default_rng(0).integers(30, 120, 1500), 0, slice(0, 200))  # as alike as molecules
    pairs = similarities(own, own)
    square = (pairs**2).mean(1)
    found = tanimoto.means(own, np.ones(1500))
    np.testing.assert_allclose(found.square, square, rtol=1e-5)
    scaled = (pairs**2 / np.sqrt(square)).mean(1)
    np.testing.assert_allclose(found.scaled_square, scaled, rtol=0.05)
    assert abs(found.scaled_square / np.sqrt(square).mean() - 1).max() > 0.2  # it is not the same for all


def test_one_alone_has_no_other_and_none_at_all_have_no_result():
    assert tanimoto.nearest_other(with_bits([5], 0)).tolist() == [0]
    assert tanimoto.nearest_other(with_bits([], 0)).shape == (0,)
    assert tanimoto.nearest(with_bits([], 0), with_bits([3], 0)).shape == (0,)
