"""Work spread over processes, results in the order of the tasks.

A pool of our own, because a process that is killed while it sends a result leaves those of multiprocessing and loky
waiting for ever, and neither tells which task it had.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import current_process, get_context, parent_process
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, TypeVar

from molvae.errors import MolvaeError

Task = TypeVar("Task")
Result = TypeVar("Result")

SPAWN = get_context("spawn")  # forked threads of torch and pyarrow can hang
PROCESS_NAME = "molvae worker"
READ_AHEAD = 4  # results per process that may wait for their turn: more take memory, fewer let processes wait
EXIT_SECONDS = 5  # in which a process that has closed its connection gets an exit code
NO_GUARD = """\
The worker processes could not start: each of them runs your script again, which then starts workers itself, or fails.
Put all that the script does below a guard, and let no module that it imports start workers either:

    import molvae

    if __name__ == "__main__":
        molvae.evaluate(...)

Or use threads=1, which starts no other process."""
NO_FILE = """\
Worker processes cannot start from {file}: each of them runs your script again, and there is no such file.
Save the script as a file, and put all that it does below the line `if __name__ == "__main__":`.
Or use threads=1, which starts no other process."""


class Workers:
    """At most `count` processes, which start with the first call that has work for two and end with the `with` block.

    Each has a connection and, on this side, a thread of its own: one that dies is noticed, and so is what it was doing.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._processes: list[_Process] = []
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._threads = ThreadPoolExecutor(max(count, 1))  # started by their first tasks

    def start(self, prepare: Callable[[], Any] | None = None) -> None:
        """Start the processes now, and have each call `prepare`, while the caller does other things.

        Raises:
            MolvaeError: the caller is a script without a file, as that of standard input.
        """
        if self.count < 2 or self._processes:
            return
        if current_process().name == PROCESS_NAME:
            sys.exit(1)  # a script without a guard, which this process runs again: the first process says so
        script = sys.modules["__main__"]
        file = getattr(script, "__file__", None)
        if file and not script.__spec__ and not os.path.exists(file):
            raise MolvaeError(NO_FILE.format(file=file))
        for _ in range(self.count):
            self._processes.append(_Process(prepare))
            self._idle.put(self._processes[-1])

    def map(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Compute `work(task)` for each task.

        Raises:
            MolvaeError: a process died or could not start.
        """
        if self.count < 2 or len(tasks) < 2:
            yield from map(work, tasks)
            return
        self.start()
        results: deque[Future[Result]] = deque()
        try:
            for number, task in enumerate(tasks, 1):
                results.append(self._threads.submit(self._compute, work, task, f"{number} of {len(tasks)}"))
                if len(results) == READ_AHEAD * self.count:
                    yield results.popleft().result()
            while results:
                yield results.popleft().result()
        finally:
            for result in results:
                result.cancel()

    def _compute(self, work: Callable[[Task], Result], task: Task, position: str) -> Result:
        process = self._idle.get()
        try:
            return process.compute(work, task, position)
        finally:
            self._idle.put(process)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._threads.shutdown()
        for process in self._processes:
            process.close()
        self._processes.clear()


class _Process:
    """A process that computes one task at a time."""

    def __init__(self, prepare: Callable[[], Any] | None) -> None:
        self._connection, other_end = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(other_end, prepare), name=PROCESS_NAME, daemon=True)
        self._process.start()
        other_end.close()  # the process has the only one: when it dies, the connection ends
        self._has_started = False

    def compute(self, work: Callable[[Task], Result], task: Task, position: str) -> Result:
        answer = self._exchange(pickle.dumps((work, task)))
        if not answer:
            raise self._explain_end(position)
        result, error = pickle.loads(answer)
        if error:
            raise error
        return result

    def _exchange(self, message: bytes) -> bytes:
        """Send a message and receive its answer, which is empty where the process died."""
        try:
            if not self._has_started:
                self._has_started = self._connection.recv()
            self._connection.send_bytes(message)
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            return b""

    def _explain_end(self, position: str) -> MolvaeError:
        self._process.join(EXIT_SECONDS)
        code = self._process.exitcode or 0
        if not self._has_started and code >= 0:
            return MolvaeError(NO_GUARD)
        cause = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
        return MolvaeError(
            f"A worker process died ({cause}) at task {position}, perhaps because memory ran out. "
            "Use fewer threads, or a machine or a job with more memory."
        )

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, prepare: Callable[[], Any] | None) -> None:
    """Compute what the other end of the connection asks for, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first ends the others
    Thread(target=_end_with_parent, daemon=True).start()
    connection.send(True)
    if prepare:
        prepare()
    with suppress(EOFError, OSError):
        while True:
            connection.send_bytes(_answer(connection.recv_bytes()))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _answer(message: bytes) -> bytes:
    """Compute a task: its result and None, or None and its error."""
    try:
        work, task = pickle.loads(message)
        return pickle.dumps((work(task), None))
    except Exception as err:  # noqa: BLE001  the caller raises it
        err.add_note(f"In a worker process:\n{traceback.format_exc()}")
        return pickle.dumps((None, err))


def map_in_order(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int | Workers) -> Iterator[Result]:
    """Compute `work(task)` for each task, in these processes, or in as many that are started for this call.

    Raises:
        MolvaeError: a process died or could not start.
    """
    if isinstance(workers, Workers):
        yield from workers.map(work, tasks)
        return
    with Workers(min(workers, max(len(tasks), 1))) as processes:
        yield from processes.map(work, tasks)
