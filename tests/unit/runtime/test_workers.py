"""Work over processes."""

from __future__ import annotations

import operator

import pytest

from molvae.runtime.workers import in_order


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers):
    assert list(in_order(operator.neg, range(20), workers)) == [-n for n in range(20)]


def test_one_task_starts_no_process():
    assert list(in_order(lambda n: n + 1, [1], workers=8)) == [2]


def test_an_error_of_a_worker_is_an_error_here():
    with pytest.raises(ZeroDivisionError):
        list(in_order((1).__truediv__, [2, 1, 0], workers=1))
    with pytest.raises(TypeError):
        list(in_order(operator.neg, [1, "a", 2], workers=2))
