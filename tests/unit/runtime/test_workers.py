"""Workers: tasks spread over processes."""

from __future__ import annotations

import operator
import os

import pytest

from molvae.runtime.workers import Workers, map_in_order


def get_process_id(task: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_of_workers_come_in_the_order_of_the_tasks(workers):
    assert list(map_in_order(operator.neg, range(20), workers)) == [-n for n in range(20)]


def test_single_task_starts_no_worker_process():
    assert list(map_in_order(lambda n: n + 1, [1], workers=8)) == [2]


def test_error_of_a_worker_is_raised_in_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(map_in_order((1).__truediv__, [2, 1, 0], workers=1))
    with pytest.raises(TypeError):
        list(map_in_order(operator.neg, [1, "a", 2], workers=2))


def test_worker_processes_serve_several_calls_and_end_with_their_block():
    with Workers(2) as workers:
        assert list(workers.map(get_process_id, [0])) == [os.getpid()]  # one task needs no other process
        ids = {*workers.map(get_process_id, range(9)), *map_in_order(get_process_id, range(9), workers)}
        assert os.getpid() not in ids and 1 <= len(ids) <= 2
    assert workers._pool is None
