"""Work spread over processes, results in the order of the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from types import TracebackType
from typing import Any, TypeVar

Result = TypeVar("Result")


class Workers:
    """At most so many processes, which start with the first call that has work for two and end with the `with` block.

    Started afresh (spawn): forked threads of torch and pyarrow can hang.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._pool: Any = None

    def start(self, prepare: Callable[[], Any] | None = None) -> None:
        """Start the processes now, and have each call `prepare`, while the caller does other things."""
        if self.count > 1 and not self._pool:
            self._pool = get_context("spawn").Pool(self.count, initializer=prepare)

    def in_order(self, work: Callable[[Any], Result], tasks: Sequence[Any]) -> Iterator[Result]:
        """`work(task)` for each task."""
        if self.count == 1 or len(tasks) <= 1:
            yield from map(work, tasks)
            return
        self.start()
        yield from self._pool.imap(work, tasks)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.terminate()
            self._pool = None


def in_order(work: Callable[[Any], Result], tasks: Sequence[Any], workers: int | Workers) -> Iterator[Result]:
    """`work(task)` for each task, in these processes, or in as many that are started for this call."""
    if isinstance(workers, Workers):
        yield from workers.in_order(work, tasks)
        return
    with Workers(min(workers, max(len(tasks), 1))) as processes:
        yield from processes.in_order(work, tasks)
