"""Training on a real SLURM, interrupted in every way there is: does it end in the weights of a run left alone?"""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from record import options, write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/workflow"))

from servers import Server
from slurm import LONG, MODEL, Cluster, Training
from workspace import Place, copy_of_checkout, write_molecules

RESUMED = "going on from results/example/checkpoints"
Interruption = Callable[[Training, dict[str, str]], None]


def cancel(run: Training, job: dict[str, str]) -> None:
    run.cluster.cancel(job["JobId"])


def warn(run: Training, job: dict[str, str]) -> None:
    run.cluster.signal(job["JobId"], "TERM")
    run.process().resume()  # unlike the others this does not wake a process


def wait_for_own_end(run: Training, job: dict[str, str]) -> None:
    time.sleep(50)  # of the 60 s granted
    run.process().resume()


def wait_for_limit(run: Training, job: dict[str, str]) -> None:
    """It hangs until SLURM ends it."""


def kill_training(run: Training, job: dict[str, str]) -> None:
    run.process().kill()


def kill_job(run: Training, job: dict[str, str]) -> None:
    run.cluster.signal(job["JobId"], "KILL")


def kill_snakemake(run: Training, job: dict[str, str]) -> None:
    run.process().resume()
    run.kill()


def kill_both(run: Training, job: dict[str, str]) -> None:
    run.kill()
    kill_job(run, job)
    time.sleep(2)


def lose_node(run: Training, job: dict[str, str]) -> None:
    run.cluster.lose_node(job["NodeList"])


def nothing(run: Training, job: dict[str, str]) -> None:
    """Its memory is what ends it."""
    with suppress(RuntimeError):
        run.process().resume()


def fill_disk(run: Training, job: dict[str, str]) -> None:
    with suppress(OSError), open(run.place.folder / "filler", "wb") as file:
        while True:
            file.write(bytes(1 << 16))
    run.process().resume()
    with suppress(subprocess.TimeoutExpired):
        run.snakemake.wait(timeout=240)
    (run.place.folder / "filler").unlink()


def kill_server(run: Training, job: dict[str, str]) -> None:
    """It stays down until training has ended, and then MLflow gets what it missed."""
    run.server.stop()
    run.process().resume()
    run.snakemake.wait(timeout=300)
    run.server.start()
    assert "0 failed" in run.place.molvae("track", "sync", MLFLOW_TRACKING_URI=run.server.uri)


# name -> what is done in the third of 60 epochs, resources of the rule
INTERRUPTIONS: dict[str, tuple[Interruption, tuple[str, ...]]] = {
    "SIGTERM, as preemption sends it": (warn, ()),
    "scancel": (cancel, ()),
    "wall time: training ends itself": (wait_for_own_end, ("train:runtime=1",)),
    "wall time: SLURM ends it": (wait_for_limit, ("train:runtime=1",)),
    "kill -9 of the training process": (kill_training, ()),
    "kill -9 of all of the job": (kill_job, ()),
    "out of memory": (nothing, ("train:mem_mb=attempt*300",)),
    "node lost": (lose_node, ()),
    "kill -9 of Snakemake, its job goes on": (kill_snakemake, ()),
    "kill -9 of Snakemake and of the job": (kill_both, ()),
    "disk full": (fill_disk, ()),
    "kill -9 of the MLflow server": (kill_server, ()),
}


def interrupt(name: str, base: Place, folder: Path, cluster: Cluster, reference: str) -> dict[str, Any]:
    """One training with its interruption, and one more `snakemake` if the first one did not end well."""
    do, resources = INTERRUPTIONS[name]
    began = time.monotonic()
    folder.mkdir(exist_ok=True)
    server = Server(folder, f"sqlite:///{folder}/mlflow.db") if do is kill_server else None
    run = Training(base, folder / "run", cluster, *resources, tracking={"uri": server.uri} if server else None)
    run.server = server
    commands = 1
    try:
        job = run.pause() if name != "out of memory" else {}
        do(run, job)
        if run.snakemake.poll() is None:
            run.snakemake.wait(timeout=300)
        if run.snakemake.returncode:
            commands += 1
            if run.snakemake.returncode == -signal.SIGKILL:
                unlock = [*run.command[:3], "--unlock", *run.command[3:]]
                run.place.shell(*unlock, **cluster.environment)
            run.start(*run.command)
            run.finish()
    finally:
        run.kill()
        if server:
            server.stop()
    jobs = [job for job in cluster.jobs() if job["WorkDir"] == str(run.place.folder)]
    if job and cluster.state(job["NodeList"]).startswith("down"):
        cluster.start_node(job["NodeList"])
    checksum = hashlib.sha256(run.weights()).hexdigest()
    return {
        "interruption": name,
        "slurm_said": [f"{job['JobState']}{', requeued' * int(job['Restarts'])}" for job in jobs],
        "snakemake_commands": commands,
        "went_on_from_checkpoint": RESUMED in run.log,
        "seconds": round(time.monotonic() - began),
        "sha256": checksum,
        "equal": checksum == reference,
    }


def small_disk(folder: Path) -> None:
    """A file system of 24 MB, which is soon full."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", help="interruptions whose name contains this")
    arguments = parser.parse_args()
    names = [name for name in INTERRUPTIONS if (arguments.only or "") in name]
    if arguments.quick:
        names = names[:1]
    root = Path(tempfile.mkdtemp(prefix="molvae-slurm-"))
    cluster = Cluster(root / "slurm")
    mounted = []
    try:
        cluster.start()
        base = Place(root / "base", copy_of_checkout(root / "checkout"))
        base.folder.mkdir()
        write_molecules(base.folder / "molecules.csv")
        base.snakemake("--set-threads", "train=1", "--", MODEL, settings=LONG)
        reference = hashlib.sha256((base.folder / MODEL).read_bytes()).hexdigest()
        rows = []
        for number, name in enumerate(names):
            folder = root / str(number)
            if name == "disk full":
                small_disk(folder)
                mounted.append(folder)
            rows.append(interrupt(name, base, folder, cluster, reference))
            print(rows[-1], flush=True)
    finally:
        cluster.stop()
        for folder in mounted:
            subprocess.run(["umount", str(folder)], check=False)
    shutil.rmtree(root)
    write(arguments.json, {"uninterrupted_sha256": reference, "interruptions": rows})
    print(f"{sum(row['equal'] for row in rows)} of {len(rows)} end in the same weights")


if __name__ == "__main__":
    main()
