"""Work spread over processes, results in the order of the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from typing import Any, TypeVar

Result = TypeVar("Result")


def in_order(work: Callable[[Any], Result], tasks: Sequence[Any], workers: int) -> Iterator[Result]:
    """`work(task)` for each task. Started afresh (spawn): forked threads of torch and pyarrow can hang."""
    if workers == 1 or len(tasks) <= 1:
        yield from map(work, tasks)
        return
    with get_context("spawn").Pool(min(workers, len(tasks))) as pool:
        yield from pool.imap(work, tasks)
