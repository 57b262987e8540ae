"""Which GPU a process may use.

On a cluster the scheduler says so, and a job sees what it was granted. On a workstation, or where one allocation of a
scheduler holds a whole run of Snakemake, nobody does: Snakemake counts GPUs and names none, so that all jobs
would take the first one. There each process takes as many as it was granted for itself, by a lock on a file that ends
with the process, however that ends.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from molvae.errors import MolvaeError

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
SCHEDULERS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "_CONDOR_JOB_AD", "KUBERNETES_SERVICE_HOST")  # set in jobs
WAIT_SECONDS = 1.0
_held: list[FileLock] = []  # a lock lasts as long as an object refers to it


def take_gpus(count: int) -> list[str]:
    """Take GPUs of this machine that no other process of this user has taken, those with most free memory first.

    They become the only ones that this process and its children see (CUDA_VISIBLE_DEVICES). Waits until there are
    enough. Call it before anything asks CUDA.

    Args:
        count: GPUs granted; 0 takes none.

    Returns:
        their names; none where the machine has none, or torchrun has chosen already, or a scheduler, which shows no
        more of them than were granted.

    Raises:
        MolvaeError: the machine has GPUs, but fewer.
    """
    if not count or "LOCAL_RANK" in os.environ or not (usable := _list_gpus()):
        return []
    if len(usable) <= count and any(name in os.environ for name in SCHEDULERS):
        return []
    if count > len(usable):
        raise MolvaeError(
            f"{count} GPUs were granted, and {len(usable)} can be used here ({', '.join(usable)}). Lower --gpus, or, "
            f"in the workflow, the number in --set-resources; or look at {VISIBLE}."
        )
    is_waiting = False
    while not (locks := _try_locks(usable, count)):
        if not is_waiting:
            log.info("all GPUs are taken by other processes of molvae; waiting for %d (--gpus 0 is the CPU)", count)
            is_waiting = True
        time.sleep(WAIT_SECONDS)
    os.environ[VISIBLE] = ",".join(locks)
    _held.extend(locks.values())
    log.info("using GPU %s", ", ".join(locks))
    return list(locks)


def _try_locks(names: list[str], count: int) -> dict[str, FileLock]:
    """Locks on `count` of the GPUs, the first that are free; none where fewer are: to hold some would be a deadlock."""
    locks: dict[str, FileLock] = {}
    for name in names:
        if (lock := _try_lock(name)) is not None:
            locks[name] = lock
        if len(locks) == count:
            return locks
    for lock in locks.values():
        lock.release()
    return {}


def launch_torchrun(count: int) -> None:
    """Run this command under torchrun where several GPUs are granted, a process for each, and end as it ends."""
    if count < 2 or "LOCAL_RANK" in os.environ or not _list_gpus():
        return
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    processes = subprocess.Popen([*torchrun, "-m", "molvae", *sys.argv[1:]])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: processes.send_signal(signal.SIGTERM))  # each saves, or lets the first do so
    status = processes.wait()
    sys.exit(status if status >= 0 else 128 - status)


def choose_device(gpus: int) -> torch.device:
    """Choose the device for a job that was granted so many GPUs: that of its rank among those it sees, or the CPU."""
    take_gpus(gpus)
    if gpus and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if gpus and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _list_gpus() -> list[str]:
    """Names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES takes them, most free memory first."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    if answer.returncode:  # a driver without a GPU
        return []
    rows = [[part.strip() for part in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    free = {uuid: int(memory) if memory.isdigit() else 0 for _, uuid, memory in rows}
    if VISIBLE in os.environ:
        by_index = {index: uuid for index, uuid, _ in rows}
        chosen = [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip()]
        names = [by_index.get(name, name) for name in chosen]
    else:
        names = list(free)
    return sorted(names, key=lambda name: -free.get(name, 0))


def _try_lock(name: str) -> FileLock | None:
    """Try to take a lock; None if another process has it."""
    folder = Path(tempfile.gettempdir()) / f"molvae-gpus-{os.getuid()}"  # in a container a user may have no name
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock
