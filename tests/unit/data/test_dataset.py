"""Token sets and batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import BOS, EOS, PAD

molecules = st.lists(st.lists(st.integers(4, 30), min_size=1, max_size=12), min_size=1, max_size=40)


def as_lists(tokens: TokenSet) -> list[list[int]]:
    return [tokens[row].tolist() for row in range(len(tokens))]


def test_a_batch_worked_by_hand():
    batch = TokenSet.of([[7, 8], [9], [4, 5, 6]]).batch(np.array([1, 0]))
    assert batch.inputs.T.tolist() == [[BOS, 9, PAD], [BOS, 7, 8]]
    assert batch.targets.T.tolist() == [[9, EOS, PAD], [7, 8, EOS]]
    assert batch.lengths.tolist() == [1, 2]
    assert len(batch) == 2


@given(molecules, st.randoms(use_true_random=False))
def test_a_batch_holds_its_molecules_and_nothing_else(lists, random):
    tokens = TokenSet.of(lists)
    rows = np.array([random.randrange(len(lists)) for _ in range(5)])
    batch = tokens.batch(rows)
    for column, row in enumerate(rows):
        length = len(lists[row])
        assert batch.inputs[:, column].tolist() == [BOS, *lists[row]] + [PAD] * (len(batch.inputs) - length - 1)
        assert batch.targets[:, column].tolist() == [*lists[row], EOS] + [PAD] * (len(batch.targets) - length - 1)


@given(molecules, st.randoms(use_true_random=False))
def test_a_selection_is_these_molecules_in_this_order(lists, random):
    rows = np.array([random.randrange(len(lists)) for _ in range(7)])
    assert as_lists(TokenSet.of(lists)) == lists
    assert as_lists(TokenSet.of(lists).select(rows)) == [lists[row] for row in rows]
    assert as_lists(TokenSet.of(lists).select(rows[:0])) == []


@given(molecules, st.integers(1, 9), st.integers(0, 99), st.randoms(use_true_random=False))
def test_properties_stay_with_their_molecules_through_selections_and_batches(lists, size, seed, random):
    plain = TokenSet.of(lists)
    values = np.array([[sum(one), len(one)] for one in lists], np.float32)
    rows = np.array([random.randrange(len(lists)) for _ in range(30)])
    tokens = TokenSet(plain.ids, plain.offsets, values).select(rows)
    for some in [*tokens.epoch(size, seed, 0), *tokens.in_order(size)]:
        batch = tokens.batch(some)
        real = (batch.targets != PAD) & (batch.targets != EOS)
        assert batch.values.tolist() == [
            [sum(column[keep].tolist()), int(keep.sum())] for column, keep in zip(batch.targets.T, real.T, strict=True)
        ]
    assert plain.batch(rows).values is None


@given(molecules, st.integers(1, 9), st.integers(0, 99), st.integers(0, 9))
def test_an_epoch_has_every_molecule_once_in_batches_of_the_size_asked_for(lists, size, seed, epoch):
    tokens = TokenSet.of(lists)
    batches = tokens.epoch(size, seed, epoch)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lists)))
    assert len(batches) == -(-len(lists) // size)
    assert sum(len(rows) < size for rows in batches) <= 1
    assert all(np.array_equal(a, b) for a, b in zip(batches, tokens.epoch(size, seed, epoch), strict=True))


def test_epochs_and_seeds_differ_in_their_order():
    tokens = TokenSet.of([[4] * (n % 9 + 1) for n in range(300)])
    orders = {tuple(np.concatenate(tokens.epoch(16, seed, epoch))) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_batches_are_of_like_length_and_not_in_order_of_length():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 60, 2000)
    batches = TokenSet.of([[4] * n for n in lengths]).epoch(32, 0, 0)
    padded = sum(lengths[rows].max() * len(rows) for rows in batches)
    assert padded / lengths.sum() < 1.06  # 2000 molecules in pools of 1600: a random order would pad 1.9-fold
    longest = [lengths[rows].max() for rows in batches]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.4


@given(molecules, st.integers(1, 9))
def test_a_pass_in_order_has_every_molecule_once_by_length(lists, size):
    rows = np.concatenate(list(TokenSet.of(lists).in_order(size)))
    assert sorted(rows) == list(range(len(lists)))
    assert [len(lists[row]) for row in rows] == sorted(map(len, lists))


@pytest.mark.parametrize("size", [1, 3])
def test_an_empty_set_has_no_batches(size):
    empty = TokenSet.of([])
    assert len(empty) == 0
    assert empty.epoch(size, 0, 0) == list(empty.in_order(size)) == []


@given(molecules, molecules)
def test_two_sets_joined_are_the_molecules_of_the_first_and_then_of_the_second(one, other):
    joined = TokenSet.of(one).joined(TokenSet.of(other))
    assert as_lists(joined) == one + other
    assert as_lists(joined.select(np.arange(len(one), len(joined)))) == other


@given(molecules, molecules)
def test_the_encoder_reads_the_source_without_bos_and_else_the_molecules_themselves(one, other):
    batch, source = (TokenSet.of(lists).batch(np.array([0])) for lists in (one, other))
    for found, lists in ((batch, one), (replace(batch, source=source), other)):
        ids, lengths = found.read
        assert ids.T.tolist() == [lists[0]] and lengths.tolist() == [len(lists[0])]


def test_ids_of_two_bytes_come_through_and_a_batch_may_be_empty():
    ids = [300, 8193, 2**15 - 1]
    assert TokenSet.of([ids]).batch(np.array([0])).targets[:-1, 0].tolist() == ids
    empty = TokenSet.of([[5]]).batch(np.array([], dtype=np.int64))
    assert len(empty) == 0 and empty.inputs.shape == (1, 0)
