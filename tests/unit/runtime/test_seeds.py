"""Streams of random numbers."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from molvae.runtime.seeds import derive, generator

names = st.lists(st.integers(0, 10**9) | st.text(max_size=5), max_size=3)


@given(st.integers(0, 2**31 - 1), names)
def test_a_derived_seed_is_one_that_torch_and_numpy_accept(seed, parts):
    assert 0 <= derive(seed, *parts) < 2**63
    torch.Generator().manual_seed(derive(seed, *parts))


def test_streams_differ_by_seed_purpose_and_index_and_by_the_border_between_them():
    streams = {derive(0), derive(1), derive(0, "a"), derive(0, "b"), derive(0, "a", 1), derive(0, "a", "1"),
               derive(0, "a1"), derive(0, 1), derive(1, 0), derive(10)}  # fmt: skip
    assert len(streams) == 10


def test_a_stream_starts_at_the_same_number_each_time():
    one, other = (torch.rand(5, generator=generator(3, "noise", 7)) for _ in range(2))
    assert torch.equal(one, other)


def test_a_seed_means_the_same_stream_in_every_version():
    assert derive(0, "prior", 1) == 2843123817411762642


def test_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(0, "x"))
    assert torch.equal(before, torch.get_rng_state())
