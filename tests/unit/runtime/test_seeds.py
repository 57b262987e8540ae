"""Seeds: independent streams of random numbers."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from molvae.runtime.seeds import derive_seed, make_generator

stream_names = st.lists(st.integers(0, 10**9) | st.text(max_size=5), max_size=3)


@given(st.integers(0, 2**31 - 1), stream_names)
def test_derived_seeds_are_accepted_by_torch_and_numpy(seed, parts):
    assert 0 <= derive_seed(seed, *parts) < 2**63
    torch.Generator().manual_seed(derive_seed(seed, *parts))
    np.random.default_rng(derive_seed(seed, *parts))


def test_derived_seeds_differ_by_seed_purpose_index_and_the_border_between_them():
    names = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, "a", "1"), (0, "a1"), (0, 1), (1, 0), (10,)]
    assert len({derive_seed(*name) for name in names}) == len(names) == 10


def test_generators_of_a_stream_start_at_the_same_number():
    first, second = (torch.rand(5, generator=make_generator(3, "noise", 7)) for _ in range(2))
    assert torch.equal(first, second)


def test_derived_seed_is_the_same_in_every_version():
    assert derive_seed(0, "prior", 1) == 2843123817411762642


def test_generators_leave_the_global_random_state_unchanged():
    before = torch.get_rng_state()
    torch.rand(3, generator=make_generator(0, "x"))
    assert torch.equal(before, torch.get_rng_state())
