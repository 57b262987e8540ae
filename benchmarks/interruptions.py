"""Training on a real SLURM, interrupted in every way there is: does it end in the weights of a run left alone?"""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from cluster import require_slurm
from record import make_parser, write_result
from servers import Server
from slurm import LONG_TRAINING, MODEL, Cluster, Training
from workspace import EXPERIMENT, Workspace, copy_checkout, copy_molecules

RESUMED = f"resuming from results/{EXPERIMENT}/checkpoints"
Interruption = Callable[[Training, dict[str, str]], None]


def cancel(run: Training, job: dict[str, str]) -> None:
    """Cancel the job as its owner would."""
    run.cluster.cancel(job["JobId"])


def terminate(run: Training, job: dict[str, str]) -> None:
    """Send SIGTERM, as preemption does."""
    process = run.find_process()
    run.cluster.signal(job["JobId"], "TERM")
    with suppress(psutil.NoSuchProcess):  # SLURM may have woken and ended it
        process.resume()  # unlike the other signals this does not always wake a process


def use_up_wall_time(run: Training, job: dict[str, str]) -> None:
    """Wait until training ends itself, before its wall time is over."""
    time.sleep(50)  # of the 60 s granted
    run.find_process().resume()


def hang(run: Training, job: dict[str, str]) -> None:
    """Do nothing: the process hangs until SLURM ends it."""


def kill_training(run: Training, job: dict[str, str]) -> None:
    """Kill the training process."""
    run.find_process().kill()


def kill_job(run: Training, job: dict[str, str]) -> None:
    """Kill all processes of the job."""
    run.cluster.signal(job["JobId"], "KILL")


def kill_snakemake(run: Training, job: dict[str, str]) -> None:
    """Kill Snakemake while its job runs on."""
    run.find_process().resume()
    run.kill()


def kill_both(run: Training, job: dict[str, str]) -> None:
    """Kill Snakemake and the job."""
    run.kill()
    kill_job(run, job)
    time.sleep(2)


def lose_node(run: Training, job: dict[str, str]) -> None:
    """Lose the node of the job."""
    run.cluster.kill_node(job["NodeList"])


def run_out_of_memory(run: Training, job: dict[str, str]) -> None:
    """Let it run: its memory is what ends it."""
    with suppress(RuntimeError):
        run.find_process().resume()


def fill_disk(run: Training, job: dict[str, str]) -> None:
    """Fill the disk until Snakemake gives up."""
    with suppress(OSError), open(run.workspace.folder / "filler", "wb") as file:
        while True:
            file.write(bytes(1 << 16))
    run.find_process().resume()
    with suppress(subprocess.TimeoutExpired):
        run.snakemake.wait(timeout=240)
    (run.workspace.folder / "filler").unlink()


def kill_server(run: Training, job: dict[str, str]) -> None:
    """Kill the MLflow server; it stays down until training has ended, and then MLflow gets what it missed."""
    run.server.stop()
    run.find_process().resume()
    run.snakemake.wait(timeout=300)
    run.server.start()
    assert "0 failed" in run.workspace.run_molvae("track", "sync", MLFLOW_TRACKING_URI=run.server.uri)


OUT_OF_MEMORY, DISK_FULL = "out of memory", "disk full"
# name -> what is done in the third of 60 epochs, resources of the rule
INTERRUPTIONS: dict[str, tuple[Interruption, tuple[str, ...]]] = {
    "SIGTERM, as preemption sends it": (terminate, ()),
    "scancel": (cancel, ()),
    "wall time: training ends itself": (use_up_wall_time, ("train:runtime=1",)),
    "wall time: SLURM ends it": (hang, ("train:runtime=1",)),
    "kill -9 of the training process": (kill_training, ()),
    "kill -9 of all of the job": (kill_job, ()),
    OUT_OF_MEMORY: (run_out_of_memory, ("train:mem_mb=attempt*300",)),
    "node lost": (lose_node, ()),
    "kill -9 of Snakemake, its job runs on": (kill_snakemake, ()),
    "kill -9 of Snakemake and of the job": (kill_both, ()),
    DISK_FULL: (fill_disk, ()),
    "kill -9 of the MLflow server": (kill_server, ()),
}


def interrupt(name: str, base: Workspace, folder: Path, cluster: Cluster, reference: str) -> dict[str, Any]:
    """Run one training with its interruption, and `snakemake` once more if the first one did not end well."""
    do, resources = INTERRUPTIONS[name]
    began = time.monotonic()
    folder.mkdir(exist_ok=True)
    server = Server(folder, f"sqlite:///{folder}/mlflow.db") if do is kill_server else None
    run = Training(base, folder / "run", cluster, *resources, tracking={"uri": server.uri} if server else None)
    run.server = server
    commands = 1
    try:
        job = run.pause() if name != OUT_OF_MEMORY else {}
        do(run, job)
        if run.snakemake.poll() is None:
            run.snakemake.wait(timeout=300)
        if run.snakemake.returncode:
            commands += 1
            if run.snakemake.returncode == -signal.SIGKILL:
                unlock = [*run.command[:3], "--unlock", *run.command[3:]]
                run.workspace.run_command(*unlock, **cluster.environment)
            run.start(*run.command)
            run.finish()
    finally:
        run.kill()
        if server:
            server.stop()
    jobs = [job for job in cluster.list_jobs() if job["WorkDir"] == str(run.workspace.folder)]
    if job and cluster.get_node_state(job["NodeList"]).startswith("down"):
        cluster.start_node(job["NodeList"])
    checksum = hashlib.sha256(run.read_weights()).hexdigest()
    return {
        "interruption": name,
        "job_states": [f"{job['JobState']}{', requeued' * int(job['Restarts'])}" for job in jobs],
        "snakemake_commands": commands,
        "resumed_from_checkpoint": RESUMED in run.log,
        "seconds": round(time.monotonic() - began),
        "sha256": checksum,
        "equal": checksum == reference,
    }


def mount_small_disk(folder: Path) -> None:
    """Mount a file system of 24 MB, which is soon full."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--only", help="interruptions whose name contains this")
    arguments = parser.parse_args()
    require_slurm()
    names = [name for name in INTERRUPTIONS if (arguments.only or "") in name]
    if arguments.quick:
        names = names[:1]
    root = Path(tempfile.mkdtemp(prefix="molvae-slurm-"))
    cluster = Cluster(root / "slurm")
    mounted = []
    try:
        cluster.start()
        base = Workspace(root / "base", copy_checkout(root / "checkout"))
        base.folder.mkdir()
        copy_molecules(base.folder)
        base.run_snakemake("--set-threads", "train=1", "--", MODEL, settings=LONG_TRAINING)
        reference = hashlib.sha256((base.folder / MODEL).read_bytes()).hexdigest()
        rows = []
        for number, name in enumerate(names):
            folder = root / str(number)
            if name == DISK_FULL:
                mount_small_disk(folder)
                mounted.append(folder)
            rows.append(interrupt(name, base, folder, cluster, reference))
            print(rows[-1], flush=True)
    finally:
        cluster.stop()
        for folder in mounted:
            subprocess.run(["umount", str(folder)], check=False)
    shutil.rmtree(root)
    write_result(arguments.json, {"uninterrupted_sha256": reference, "interruptions": rows})
    print(f"{sum(row['equal'] for row in rows)} of {len(rows)} end in the same weights")


if __name__ == "__main__":
    main()
