"""Workers: tasks spread over processes."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from molvae.errors import MolvaeError, Rejected
from molvae.runtime import workers as module
from molvae.runtime.workers import WorkerDied, Workers, map_in_order

SECONDS = 60  # a script that takes longer hangs
UNGUARDED = "import operator\nfrom molvae.runtime.workers import map_in_order\n"
UNGUARDED += "print(sum(map_in_order(operator.neg, range(9), 2)))\n"
DYING = """\
import os
from molvae.runtime.workers import map_in_order

def end(task):
    if task == 5:
        {death}
    return task

if __name__ == "__main__":
    for result in map_in_order(end, range(20), 2):
        print(result, flush=True)
"""
WAITING = """\
import signal, sys, time
from pathlib import Path
from molvae.runtime.workers import Workers

def wait(task):
    Path(f"started-{task}").touch()
    time.sleep(300)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with Workers(2) as workers:
        list(workers.map(wait, range(20)))
"""


def get_process_id(task: int) -> int:
    return os.getpid()


def reject(task: int) -> None:
    raise Rejected("too_long", f"{task} symbols")


def run_python(*arguments, folder, stdin=None):
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, input=stdin, capture_output=True, text=True, timeout=SECONDS
    )


def run_script(text, folder, name="script.py"):
    (folder / name).write_text(text)
    return run_python(str(folder / name), folder=folder)


def assert_one_error_names_the_guard(process):
    assert process.returncode == 1
    assert process.stderr.count("Traceback (most recent call last)") == 1
    assert process.stderr.count("molvae.errors.MolvaeError") == 1
    assert 'if __name__ == "__main__":' in process.stderr and "threads=1" in process.stderr
    assert "bootstrapping" not in process.stderr and not process.stdout


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_of_workers_come_in_the_order_of_the_tasks(workers):
    assert list(map_in_order(operator.neg, range(20), workers)) == [-n for n in range(20)]


def test_single_task_starts_no_worker_process():
    assert list(map_in_order(lambda n: n + 1, [1], workers=8)) == [2]


def test_error_of_a_worker_is_raised_in_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(map_in_order((1).__truediv__, [2, 1, 0], workers=1))
    with pytest.raises(TypeError):
        list(map_in_order(operator.neg, [1, "a", 2], workers=2))
    with pytest.raises(Rejected, match="too_long: 7 symbols") as caught:
        list(map_in_order(reject, [7, 8], workers=2))
    assert (caught.value.reason, caught.value.detail) == ("too_long", "7 symbols")
    assert f"{reject.__name__}\n    raise Rejected" in caught.value.__notes__[0]  # where it was raised


def test_task_or_result_that_cannot_be_sent_is_an_error_and_not_the_end_of_a_worker():
    with Workers(2) as workers:
        with pytest.raises((AttributeError, TypeError), match="pickle"):
            list(workers.map(lambda n: n, range(3)))
        with pytest.raises(TypeError, match="pickle"):
            list(workers.map(memoryview, [b"a", b"b"]))
        assert list(workers.map(operator.neg, range(20))) == [-n for n in range(20)]


def test_worker_processes_serve_several_calls_and_end_with_their_block():
    with Workers(2) as workers:
        assert list(workers.map(get_process_id, [0])) == [os.getpid()]  # one task needs no other process
        ids = {*workers.map(get_process_id, range(9)), *map_in_order(get_process_id, range(9), workers)}
        assert os.getpid() not in ids and 1 <= len(ids) <= 2
    assert not any(map(psutil.pid_exists, ids))


def test_all_worker_processes_start_and_prepare_before_the_first_task(tmp_path):
    prepare = "import os\nfrom pathlib import Path\ndef prepare():\n    Path(f'ready-{os.getpid()}').touch()\n"
    (tmp_path / "prepare.py").write_text(prepare)
    script = "import time\nfrom pathlib import Path\nfrom prepare import prepare\n"
    script += "from molvae.runtime.workers import Workers\n"
    script += "if __name__ == '__main__':\n    with Workers(3) as workers:\n        workers.start(prepare)\n"
    script += "        while len([*Path().glob('ready-*')]) < 3:\n            time.sleep(0.01)\n"
    assert run_script(script, tmp_path).returncode == 0


def test_few_results_wait_for_a_slow_caller(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READ_AHEAD", 2)
    monkeypatch.chdir(tmp_path)
    with Workers(2) as workers:
        results = workers.map(os.mkdir, [f"{task:02}" for task in range(50)])
        next(results)
        time.sleep(0.5)
        assert len(os.listdir()) == 4
        assert len(list(results)) == 49


@pytest.mark.parametrize("name", ["script.py", "with a blank.py"])
def test_script_without_a_guard_ends_with_one_error_that_names_it(name, tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    assert_one_error_names_the_guard(run_script(UNGUARDED, folder, name))


def test_evaluate_in_a_script_without_a_guard_ends_with_one_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLVAE_CACHE", str(tmp_path / "cache"))
    lines = (Path(__file__).parents[2] / "data" / "moses_case.smi").read_text().splitlines()
    (tmp_path / "many.smi").write_text("\n".join(lines[:300]))  # work for several processes
    (tmp_path / "ref.smi").write_text("\n".join(lines[300:600]))
    call = "import molvae\nmolvae.evaluate('many.smi', 'ref.smi', device='cpu', threads=2)\n"
    assert_one_error_names_the_guard(run_script(call, tmp_path))


def test_guard_of_a_script_does_not_help_a_module_that_starts_workers_where_it_is_imported(tmp_path):
    (tmp_path / "work.py").write_text(UNGUARDED)
    assert_one_error_names_the_guard(run_script("import work\nif __name__ == '__main__':\n    pass\n", tmp_path))


def test_script_that_fails_where_a_worker_runs_it_again_ends_with_an_error(tmp_path):
    script = "import os\nos.mkdir('results')\n" + UNGUARDED
    process = run_script(script, tmp_path)
    assert process.returncode == 1 and "FileExistsError" in process.stderr
    assert 'if __name__ == "__main__":' in process.stderr.partition("molvae.errors.MolvaeError")[2]


def test_script_of_standard_input_ends_with_one_error_and_without_threads_runs(tmp_path):
    process = run_python("-", folder=tmp_path, stdin=UNGUARDED)
    assert_one_error_names_the_guard(process)
    assert "Save the script as a file" in process.stderr
    assert run_python("-", folder=tmp_path, stdin=UNGUARDED.replace("2)", "1)")).stdout == "-36\n"


def test_code_without_a_file_needs_no_guard(tmp_path):
    assert run_python("-c", UNGUARDED, folder=tmp_path).stdout == "-36\n"
    notebook = "import sys, types\nsys.modules['__main__'] = module = types.ModuleType('__main__')\n"
    assert run_script(f"{notebook}exec({UNGUARDED!r}, vars(module))\n", tmp_path).stdout == "-36\n"


def test_module_that_is_run_by_name_needs_the_guard(tmp_path):
    (tmp_path / "work.py").write_text(UNGUARDED)
    assert_one_error_names_the_guard(run_python("-m", "work", folder=tmp_path))
    guarded = UNGUARDED.replace("print", "if __name__ == '__main__': print")
    assert run_script(guarded, tmp_path).stdout == "-36\n"


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_worker_that_is_killed_ends_the_work_with_an_error_that_says_where(number, tmp_path):
    process = run_script(DYING.format(death=f"os.kill(os.getpid(), {number:d})"), tmp_path)
    assert process.returncode == 1 and process.stdout.split() == ["0", "1", "2", "3", "4"]
    error = process.stderr.splitlines()[-1]
    assert f"A worker process died (signal {number:d}, " in error and "at task 6 of 20" in error
    assert "memory" in error and "fewer threads" in error


def test_worker_that_exits_ends_the_work_with_an_error(tmp_path):
    process = run_script(DYING.format(death="raise SystemExit(3)"), tmp_path)
    assert "A worker process died (exit code 3) at task 6 of 20" in process.stderr


def test_worker_that_dies_while_it_sends_its_result_ends_the_work_with_an_error(tmp_path):
    send_half = "lambda self, buf: (os.write(self._handle, buf[: len(buf) // 2]), os.kill(os.getpid(), 9))"
    death = f"from multiprocessing.connection import Connection; Connection._send = {send_half}"
    process = run_script(DYING.format(death=death), tmp_path)
    assert "A worker process died (signal 9, Killed) at task 6 of 20" in process.stderr


def test_worker_that_dies_before_its_first_task_ends_the_work_with_an_error():
    with Workers(2) as workers:
        assert sorted(set(workers.map(get_process_id, range(9))))
        for process in workers._processes:
            process.kill()
        with pytest.raises(MolvaeError, match="signal 9, Killed.* at task 1 of 3"):
            list(workers.map(operator.neg, range(3)))


@pytest.mark.parametrize(
    ("number", "code", "n_tracebacks"),
    [
        pytest.param(signal.SIGINT, -signal.SIGINT, 1, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 128 + signal.SIGTERM, 0, id="SIGTERM"),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, 0, id="SIGKILL"),
    ],
)
def test_workers_end_at_once_with_their_parent(number, code, n_tracebacks, tmp_path):
    (tmp_path / "script.py").write_text(WAITING)
    parent = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stderr=-1, text=True, start_new_session=True)
    end = time.monotonic() + SECONDS
    while len([*tmp_path.glob("started-*")]) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    children = psutil.Process(parent.pid).children(recursive=True)
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)  # as a terminal does
    else:
        parent.send_signal(number)
    _, stderr = parent.communicate(timeout=SECONDS)  # which waits for all that hold stderr
    assert parent.returncode == code and stderr.count("Traceback (most") == n_tracebacks
    _, alive = psutil.wait_procs(children, timeout=SECONDS)
    assert len(children) >= 2
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


def test_workers_end_at_once_with_an_error_in_their_block(tmp_path):
    script = WAITING.replace("time.sleep(300)", "1 / 0 if task == 0 else time.sleep(300)")
    started = time.monotonic()
    process = run_script(script, tmp_path)
    assert "ZeroDivisionError" in process.stderr and time.monotonic() - started < 30


def work_at(task: tuple[list[str], str]) -> list[str]:
    """Do what each row says; in the folder a file says that it was done once."""
    rows, folder = task
    results = []
    for row in rows:
        if row == "killed once" and not Path(folder, "killed").exists():
            Path(folder, "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if row == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if row == "exit":
            os._exit(0)
        while row == "endless":
            pass
        print("what work prints")
        results.append(row)
    return results


def reject_one(task: tuple[list[str], str], rejection: Rejected) -> list[str]:
    [row], _ = task
    return [f"{row}: {rejection.reason}"]


@pytest.mark.parametrize("count", [1, 2])
def test_row_that_ends_its_process_or_takes_too_long_costs_that_row_only(count, tmp_path, capfd):
    tasks = [
        (["a", "segfault", "b", "killed once", "c"], str(tmp_path)),
        (["endless"], str(tmp_path)),
        (["d", "e", "exit"], str(tmp_path)),
        (["segfault", "segfault"], str(tmp_path)),
    ]
    with Workers(count, isolated=True, row_seconds=0.5) as workers:
        results = [row for part in workers.map(work_at, tasks, reject_one) for row in part]
        assert [row for part in workers.map(work_at, [(["f"], "")], reject_one) for row in part] == ["f"]
    assert results == [
        *["a", "segfault: process_died", "b", "killed once", "c", "endless: time_limit"],
        *["d", "e", "exit: process_died", "segfault: process_died", "segfault: process_died"],
    ]
    assert capfd.readouterr().out == ""


def test_rows_that_all_end_their_process_are_an_error_in_the_end(monkeypatch):
    monkeypatch.setattr(module, "MAX_REJECTED", 2)
    with Workers(1, isolated=True) as workers, pytest.raises(MolvaeError, match="signal 11"):
        list(workers.map(work_at, [(["segfault"] * 4, "")], reject_one))


def test_process_that_dies_between_rows_has_its_rows_divided():
    with Workers(1, isolated=True) as workers:
        results = list(workers.map(die_behind_rows, [(list("abcde"),)], lambda task, rejection: task[0]))
    assert results == [["a", "b"], ["c"], ["d", "e"]]


def die_behind_rows(task: tuple[list[str]]) -> list[str]:
    rows = list(task[0])
    if len(rows) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows


def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_single_task_that_takes_too_long_is_an_error_and_the_process_is_replaced():
    with Workers(1, isolated=True) as workers:
        with pytest.raises(WorkerDied, match=r"no result within 0\.5 s") as death:
            workers.run(wait, 60, seconds=0.5)
        assert death.value.rejection.reason == "time_limit"
        assert workers.run(wait, 0.0, seconds=60) == 0.0


def test_work_that_is_interrupted_leaves_no_answer_for_the_next_one():
    with Workers(1, isolated=True) as workers:
        assert workers.run(wait, 0.0) == 0.0
        timer = threading.Timer(0.5, lambda: signal.raise_signal(signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            workers.run(wait, 3.0)
        assert workers.run(wait, 0.1) == 0.1
