"""Work spread over processes, results in the order of the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.pool import Pool
from types import TracebackType
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """At most `count` processes, which start with the first call that has work for two and end with the `with` block.

    They are spawned: forked threads of torch and pyarrow can hang.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._pool: Pool | None = None

    def start(self, prepare: Callable[[], Any] | None = None) -> Pool | None:
        """Start the processes now, and have each call `prepare`, while the caller does other things."""
        if self.count > 1 and not self._pool:
            self._pool = get_context("spawn").Pool(self.count, initializer=prepare)
        return self._pool

    def map(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Compute `work(task)` for each task."""
        pool = self.start() if len(tasks) > 1 else None
        yield from map(work, tasks) if pool is None else pool.imap(work, tasks)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.terminate()
            self._pool = None


def map_in_order(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int | Workers) -> Iterator[Result]:
    """Compute `work(task)` for each task, in these processes, or in as many that are started for this call."""
    if isinstance(workers, Workers):
        yield from workers.map(work, tasks)
        return
    with Workers(min(workers, max(len(tasks), 1))) as processes:
        yield from processes.map(work, tasks)
