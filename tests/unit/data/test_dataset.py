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


def to_lists(tokens: TokenSet) -> list[list[int]]:
    return [tokens[row].tolist() for row in range(len(tokens))]


def test_batch_of_two_molecules_has_the_ids_worked_by_hand():
    batch = TokenSet.from_lists([[7, 8], [9], [4, 5, 6]]).collate(np.array([1, 0]))
    assert batch.inputs.T.tolist() == [[BOS, 9, PAD], [BOS, 7, 8]]
    assert batch.targets.T.tolist() == [[9, EOS, PAD], [7, 8, EOS]]
    assert batch.lengths.tolist() == [1, 2]
    assert len(batch) == 2


@given(molecules, st.randoms(use_true_random=False))
def test_batch_holds_its_molecules_special_tokens_and_nothing_else(lists, random):
    tokens = TokenSet.from_lists(lists)
    rows = np.array([random.randrange(len(lists)) for _ in range(5)])
    batch = tokens.collate(rows)
    for column, row in enumerate(rows):
        length = len(lists[row])
        assert batch.inputs[:, column].tolist() == [BOS, *lists[row]] + [PAD] * (len(batch.inputs) - length - 1)
        assert batch.targets[:, column].tolist() == [*lists[row], EOS] + [PAD] * (len(batch.targets) - length - 1)


@given(molecules, st.randoms(use_true_random=False))
def test_selected_molecules_stand_in_the_order_of_the_rows(lists, random):
    rows = np.array([random.randrange(len(lists)) for _ in range(7)])
    assert to_lists(TokenSet.from_lists(lists)) == lists
    assert to_lists(TokenSet.from_lists(lists).select(rows)) == [lists[row] for row in rows]
    assert to_lists(TokenSet.from_lists(lists).select(rows[:0])) == []


@given(molecules, st.integers(1, 9), st.integers(0, 99), st.randoms(use_true_random=False))
def test_properties_stay_with_their_molecules_through_selections_and_batches(lists, size, seed, random):
    plain = TokenSet.from_lists(lists)
    values = np.array([[sum(ids), len(ids)] for ids in lists], np.float32)
    rows = np.array([random.randrange(len(lists)) for _ in range(30)])
    tokens = TokenSet(plain.ids, plain.offsets, values).select(rows)
    for batch_rows in [*tokens.shuffle_batches(size, seed, 0), *tokens.iter_by_length(size)]:
        batch = tokens.collate(batch_rows)
        is_molecule = (batch.targets != PAD) & (batch.targets != EOS)
        assert batch.properties.tolist() == [
            [sum(column[mask].tolist()), int(mask.sum())]
            for column, mask in zip(batch.targets.T, is_molecule.T, strict=True)
        ]
    assert plain.collate(rows).properties is None


@given(molecules, st.integers(1, 9), st.integers(0, 99), st.integers(0, 9))
def test_shuffled_epoch_has_every_molecule_once_in_batches_of_the_given_size(lists, size, seed, epoch):
    tokens = TokenSet.from_lists(lists)
    batches = tokens.shuffle_batches(size, seed, epoch)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lists)))
    assert len(batches) == -(-len(lists) // size)
    assert sum(len(rows) < size for rows in batches) <= 1
    repeated = tokens.shuffle_batches(size, seed, epoch)
    assert all(np.array_equal(rows, repeated_rows) for rows, repeated_rows in zip(batches, repeated, strict=True))


def test_shuffled_batches_differ_between_epochs_and_between_seeds():
    tokens = TokenSet.from_lists([[4] * (n % 9 + 1) for n in range(300)])
    orders = {tuple(np.concatenate(tokens.shuffle_batches(16, seed, epoch))) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_shuffled_batches_hold_molecules_of_like_length_and_are_not_sorted_by_it():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 60, 2000)
    batches = TokenSet.from_lists([[4] * n for n in lengths]).shuffle_batches(32, 0, 0)
    padded = sum(lengths[rows].max() * len(rows) for rows in batches)
    assert padded / lengths.sum() < 1.06  # 2000 molecules in pools of 1600: a random order would pad 1.9-fold
    longest = [lengths[rows].max() for rows in batches]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.4


@given(molecules, st.integers(1, 9))
def test_batches_by_length_have_every_molecule_once_in_order_of_length(lists, size):
    rows = np.concatenate(list(TokenSet.from_lists(lists).iter_by_length(size)))
    assert sorted(rows) == list(range(len(lists)))
    assert [len(lists[row]) for row in rows] == sorted(map(len, lists))


@pytest.mark.parametrize("size", [1, 3])
def test_empty_token_set_has_no_batches(size):
    empty = TokenSet.from_lists([])
    assert len(empty) == 0
    assert empty.shuffle_batches(size, 0, 0) == list(empty.iter_by_length(size)) == []


@given(molecules, molecules)
def test_concatenated_token_sets_hold_the_molecules_of_the_first_and_then_of_the_second(first, second):
    joined = TokenSet.from_lists(first).concat(TokenSet.from_lists(second))
    assert to_lists(joined) == first + second
    assert to_lists(joined.select(np.arange(len(first), len(joined)))) == second


@given(molecules, molecules)
def test_encoder_inputs_are_those_of_the_encoder_batch_or_else_of_the_batch_itself(targets, augmentations):
    batch, encoder_batch = (TokenSet.from_lists(lists).collate(np.array([0])) for lists in (targets, augmentations))
    for example, lists in ((batch, targets), (replace(batch, encoder_batch=encoder_batch), augmentations)):
        ids, lengths = example.encoder_inputs
        assert ids.T.tolist() == [lists[0]] and lengths.tolist() == [len(lists[0])]


def test_batches_keep_ids_of_two_bytes_and_may_be_empty():
    ids = [300, 8193, 2**15 - 1]
    assert TokenSet.from_lists([ids]).collate(np.array([0])).targets[:-1, 0].tolist() == ids
    empty = TokenSet.from_lists([[5]]).collate(np.array([], dtype=np.int64))
    assert len(empty) == 0 and empty.inputs.shape == (1, 0)
