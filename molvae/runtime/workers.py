"""Work spread over processes, results in the order of the tasks.

A pool of our own, because a process that is killed while it sends a result leaves those of multiprocessing and loky
waiting for ever, and neither tells which task it had, or which row of it.
"""

from __future__ import annotations

import logging
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
from threading import Lock, Thread
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from molvae.errors import MolvaeError, Rejected

Task = TypeVar("Task")
Result = TypeVar("Result")

log = logging.getLogger(__name__)
SPAWN = get_context("spawn")  # forked threads of torch and pyarrow can hang
TIME_LIMIT, PROCESS_DIED = "time_limit", "process_died"  # reasons of rejection
UNKNOWN = -1
PROCESS_NAME = "molvae worker"
READ_AHEAD = 4  # results per process that may wait for their turn: more take memory, fewer let processes wait
ROW_SECONDS = 60.0  # of CPU time for a row: a peptide of 330 residues takes 15
MAX_REJECTED = 20  # rows that may end their process: more are hardly the fault of the rows
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


class WorkerDied(MolvaeError):
    """A worker process died, or was ended because it took too long.

    Attributes:
        rejection: why, as the reason of a row: `time_limit` or `process_died`.
        position: of the row that it was at, from 0; None: not known.
    """

    def __init__(self, message: str, rejection: Rejected, position: int | None = None) -> None:
        super().__init__(message)
        self.rejection, self.position = rejection, position


class Workers:
    """At most `count` processes, which start with the first call that has work for two and end with the `with` block.

    Each has a connection and, on this side, a thread of its own: one that dies is noticed, and so is what it was doing.
    """

    def __init__(self, count: int = 1, *, isolated: bool = False, row_seconds: float = ROW_SECONDS) -> None:
        """Set the number of processes.

        Args:
            count: of the processes.
            isolated: work is never done in the calling process, which therefore survives all rows.
            row_seconds: of CPU time that a row may take in a task whose rows may be rejected.
        """
        self.count = count
        self._isolated, self._row_seconds = isolated, row_seconds
        self._processes: list[_Process] = []
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._threads = ThreadPoolExecutor(max(count, 1))  # started by their first tasks
        self._lock = Lock()
        self._has_ended = False
        self._prepare: Callable[[], Any] | None = None

    def start(self, prepare: Callable[[], Any] | None = None) -> None:
        """Start the processes now, and have each call `prepare`, while the caller does other things.

        Raises:
            MolvaeError: the caller is a script without a file, as that of standard input.
        """
        if self._works_here or self._processes:
            return
        if current_process().name == PROCESS_NAME:
            sys.exit(1)  # a script without a guard, which this process runs again: the first process says so
        script = sys.modules["__main__"]
        file = getattr(script, "__file__", None)
        if file and not script.__spec__ and not os.path.exists(file):
            raise MolvaeError(NO_FILE.format(file=file))
        self._prepare = prepare
        for _ in range(max(self.count, 1)):
            self._processes.append(_Process(prepare))
            self._idle.put(self._processes[-1])

    @property
    def _works_here(self) -> bool:
        return self.count < 2 and not self._isolated

    def map(
        self,
        work: Callable[[Task], Result],
        tasks: Sequence[Task],
        reject: Callable[[Task, Rejected], Result] | None = None,
    ) -> Iterator[Result]:
        """Compute `work(task)` for each task.

        With `reject`, a task is a tuple that begins with a sequence of rows, over which `work` iterates. A row that
        ends its process, twice, or takes too long, costs that row only: its task is divided, and there is more than one
        result of it. Where the work is done in the calling process, it ends that.

        Args:
            work: a top-level function.
            tasks: that can be pickled.
            reject: makes the result of a task of one row that is rejected.

        Raises:
            MolvaeError: a process died or could not start.
        """
        if self._works_here or (len(tasks) < 2 and not self._isolated):
            yield from map(work, tasks)
            return
        self.start()
        call = _Call(work, reject, self._row_seconds if reject else None)
        rejected: list[WorkerDied] = []
        results: deque[Future[list[Result]]] = deque()
        try:
            for number, task in enumerate(tasks, 1):
                position = f"{number} of {len(tasks)}"
                results.append(self._threads.submit(self._compute_rows, call, task, position, rejected))
                if len(results) == READ_AHEAD * self.count:
                    yield from results.popleft().result()
            while results:
                yield from results.popleft().result()
        finally:
            for result in results:
                result.cancel()

    def run(self, work: Callable[[Task], Result], task: Task, *, seconds: float | None = None) -> Result:
        """Compute `work(task)` in a worker process, and wait for it.

        Args:
            work: a top-level function.
            task: that can be pickled.
            seconds: wall time after which the process is ended; None: no limit.

        Raises:
            WorkerDied: it died, or took too long.
        """
        self.start()
        return self._compute(_Call(work, None, None), task, "1 of 1", seconds)

    def _compute_rows(self, call: _Call, task: Any, position: str, rejected: list[WorkerDied]) -> list[Any]:
        """Compute a task; where a row ends the process, the rows before it, that row, and the rows behind it."""
        try:
            return [self._compute(call, task, position)]
        except WorkerDied as death:
            if call.reject is None or self._has_ended or len(rejected) == MAX_REJECTED:
                raise
            rows, *rest = task
            if len(rows) == 1:
                rejected.append(death)
                return [call.reject(task, death.rejection)]
            log.warning("%s Its rows are computed again.", death)
            parts = _divide(rows, death.position)
            return [result for part in parts for result in self._compute_rows(call, (part, *rest), position, rejected)]

    def _compute(self, call: _Call, task: Any, position: str, seconds: float | None = None) -> Any:
        process = self._idle.get()
        try:
            return process.compute(call, task, position, seconds)
        except (WorkerDied, KeyboardInterrupt):  # the latter leaves an answer that nobody waits for
            process = self._replace(process)
            raise
        finally:
            self._idle.put(process)

    def _replace(self, process: _Process) -> _Process:
        """Start a process in the place of another one, unless all are being ended."""
        with self._lock:
            if self._has_ended:
                return process
            process.kill()
            process.close()
            place = self._processes.index(process)
            self._processes[place] = _Process(self._prepare)
            return self._processes[place]

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._has_ended = True
        for process in self._processes:
            process.kill()
        self._threads.shutdown()
        for process in self._processes:
            process.close()
        self._processes.clear()


class _Call(NamedTuple):
    """What to compute: the work, and how a row is rejected and its limit, if that is allowed."""

    work: Callable[[Any], Any]
    reject: Callable[[Any, Rejected], Any] | None
    row_seconds: float | None


def _divide(rows: Sequence[Any], position: int | None) -> list[Sequence[Any]]:
    """Divide rows into those before a position, its row, and those behind it; into halves if it is not known."""
    cuts = [len(rows) // 2] if position is None else [position, position + 1]
    parts = [rows[start:end] for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    return [part for part in parts if len(part)]


class _Process:
    """A process that computes one task at a time."""

    def __init__(self, prepare: Callable[[], Any] | None) -> None:
        self._connection, other_end = SPAWN.Pipe()
        self._position = SPAWN.RawValue("q", UNKNOWN)  # of the row that the process is at
        arguments = other_end, prepare, self._position
        self._process = SPAWN.Process(target=_serve, args=arguments, name=PROCESS_NAME, daemon=True)
        self._process.start()
        other_end.close()  # the process has the only one: when it dies, the connection ends
        self._has_started = self._is_late = False

    def compute(self, call: _Call, task: Any, position: str, seconds: float | None = None) -> Any:
        message = pickle.dumps((call.work, task, call.row_seconds))
        self._position.value = UNKNOWN
        answer = self._exchange(message, seconds)
        if not answer:
            raise self._explain_end(position, seconds)
        result, error = pickle.loads(answer)
        if error:
            raise error
        return result

    def _exchange(self, message: bytes, seconds: float | None) -> bytes:
        """Send a message and receive its answer, which is empty where the process died or had to be ended."""
        try:
            if not self._has_started:
                self._has_started = self._connection.recv()
            self._connection.send_bytes(message)
            if self._connection.poll(seconds):
                return self._connection.recv_bytes()
            self._is_late = True
            self.kill()
        except (EOFError, OSError):
            pass
        return b""

    def _explain_end(self, task: str, seconds: float | None) -> MolvaeError:
        self._process.join(EXIT_SECONDS)
        code = self._process.exitcode or 0
        if not self._has_started and code >= 0:
            return MolvaeError(NO_GUARD)
        if self._is_late:
            rejection = Rejected(TIME_LIMIT, f"no result within {seconds:g} s")
            return WorkerDied(f"A worker process was ended: {rejection.detail}.", rejection)
        position = self._position.value if self._position.value != UNKNOWN else None
        where = f"task {task}" + ("" if position is None else f", row {position + 1} of it")
        if code == -signal.SIGPROF:
            rejection = Rejected(TIME_LIMIT, "it took more CPU time than a row may take")
            return WorkerDied(f"A worker process took too long at {where}.", rejection, position)
        cause = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
        message = (
            f"A worker process died ({cause}) at {where}, perhaps because memory ran out. "
            "Use fewer threads, or a machine or a job with more memory."
        )
        return WorkerDied(message, Rejected(PROCESS_DIED, cause), position)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.join()
        self._connection.close()


class _TimedRows(Sequence[Any]):
    """Rows that note, in a worker process, which of them is worked at, and end the process if it takes too long."""

    def __init__(self, rows: Sequence[Any], position: Any, seconds: float) -> None:
        self._rows, self._position, self._seconds = rows, position, seconds

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._rows[place]

    def __iter__(self) -> Iterator[Any]:
        for position, row in enumerate(self._rows):
            self._position.value = position
            signal.setitimer(signal.ITIMER_PROF, self._seconds)  # its signal ends the process, even one within RDKit
            yield row
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._position.value = UNKNOWN  # what follows is about all of them


def _serve(connection: Connection, prepare: Callable[[], Any] | None, position: Any) -> None:
    """Compute what the other end of the connection asks for, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first ends the others
    os.dup2(2, 1)  # what the work prints is no result of the command
    Thread(target=_end_with_parent, daemon=True).start()
    connection.send(True)
    if prepare:
        prepare()
    with suppress(EOFError, OSError):
        while True:
            connection.send_bytes(_answer(connection.recv_bytes(), position))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _answer(message: bytes, position: Any) -> bytes:
    """Compute a task: its result and None, or None and its error."""
    try:
        work, task, row_seconds = pickle.loads(message)
        if row_seconds:
            task = (_TimedRows(task[0], position, row_seconds), *task[1:])
        return pickle.dumps((work(task), None))
    except Exception as err:  # noqa: BLE001  the caller raises it
        signal.setitimer(signal.ITIMER_PROF, 0)
        err.add_note(f"In a worker process:\n{traceback.format_exc()}")
        return pickle.dumps((None, err))


def map_in_order(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int | Workers,
    reject: Callable[[Task, Rejected], Result] | None = None,
) -> Iterator[Result]:
    """Compute `work(task)` for each task, in these processes, or in as many that are started for this call.

    Args:
        work: a top-level function.
        tasks: that can be pickled.
        workers: processes.
        reject: see `Workers.map`.

    Raises:
        MolvaeError: a process died or could not start.
    """
    if isinstance(workers, Workers):
        yield from workers.map(work, tasks, reject)
        return
    with Workers(min(workers, max(len(tasks), 1))) as processes:
        yield from processes.map(work, tasks, reject)
