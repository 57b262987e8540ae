"""A real SLURM on loopback: a controller and two nodes, all of them processes of this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
from workspace import Place, with_changes

NODES = ("node1", "node2")
EPOCHS = 60  # some seconds: time to interrupt it
UNTRACKED = {"tracking": {"enabled": False}}
LONG = with_changes(train={"epochs": EPOCHS}) | UNTRACKED
MODEL = "results/example/model/model.safetensors"
SEARCH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # daemons are not on everybody's path
CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=6
ReturnToService=2
KillWait=15
MinJobAge=3600
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory,CR_LLN
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
GresTypes=gpu
NodeName=DEFAULT CPUs={cores} RealMemory=64000 Gres=gpu:1
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def missing() -> list[str]:
    """What this machine lacks to run a SLURM and submit to it."""
    programs = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=SEARCH)]
    return programs + ["snakemake-executor-plugin-slurm"] * (find_spec("snakemake_executor_plugin_slurm") is None)


class Cluster:
    """Controller, nodes and their folder."""

    def __init__(self, folder: Path, *, cores: int = 4):
        """Make its files.

        Args:
            cores: that each node says it has, whatever this machine has.
        """
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for name in ("munge", "state", *NODES):
            (folder / name).mkdir(mode=0o700)
        (folder / "munge/key").write_bytes(os.urandom(1024))
        (folder / "munge/key").chmod(0o400)
        names = {"host": socket.gethostname().split(".")[0], "user": psutil.Process().username()}
        (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, cores=cores, ports=_free_ports(3), **names))
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        # the plugin takes SLURM_CONF from the environment of srun: a cluster has its file in /etc
        srun = f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun", path=SEARCH)} "$@"\n'
        (folder / "bin/srun").write_text(srun)
        (folder / "bin/srun").chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """What a user's shell on this cluster has."""
        return {"SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": f"{self.folder}/bin:{SEARCH}"}

    def start(self) -> None:
        """Bring up controller and nodes, and wait until the nodes are idle."""
        munge = self.folder / "munge"
        self._run(
            "munged", "--force", f"--socket={munge}/socket", f"--key-file={munge}/key", f"--pid-file={munge}/pid",
            f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        self._run("slurmctld")
        for name in NODES:
            self.start_node(name)

    def start_node(self, name: str) -> None:
        """Start a node, also one that was lost."""
        self._run("slurmd", "-N", name)
        self.wait_for(name, "idle")

    def wait_for(self, node: str, state: str, seconds: float = 60) -> None:
        """Wait until a node is in a state."""
        found, until = "", time.monotonic() + seconds
        while time.monotonic() < until:
            with suppress(subprocess.SubprocessError):  # the controller may not answer yet
                found = self.state(node)
            if found == state:
                return
            time.sleep(0.25)
        raise RuntimeError(f"{node} is {found!r}, not {state!r}, after {seconds} s:\n{self.logs()}")

    def jobs(self) -> list[dict[str, str]]:
        """What SLURM knows of each job of the last hour."""
        lines = self._run("scontrol", "--oneliner", "--all", "show", "jobs").splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]

    def job_of(self, folder: Path, rule: str) -> dict[str, str]:
        """The latest job of a rule in a working directory."""
        jobs = [job for job in self.jobs() if job["WorkDir"] == str(folder) and f"rule_{rule}_" in job["Comment"]]
        return max(jobs, key=lambda job: int(job["JobId"]))

    def cancel(self, job: str) -> None:
        """End a job as its owner would."""
        self._run("scancel", job)

    def signal(self, job: str, name: str) -> None:
        """Send a signal to all processes of a job."""
        self._run("scancel", f"--signal={name}", "--full", job)

    def state(self, node: str) -> str:
        """What the controller thinks of a node."""
        return self._run("sinfo", "--noheader", "--nodes", node, "--format", "%T").strip()

    def lose_node(self, name: str, *, told: bool = False) -> None:
        """Everything on a node dies at once, as in a power cut.

        Args:
            told: the controller is told so, as by a site's health check; else it finds out in half a minute.
        """
        os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)
        tasks = [process for process in psutil.process_iter() if self._is_task(process, name)]
        above = {parent for task in tasks for parent in task.parents() if parent.name() == "slurmstepd"}
        for process in [*above, *tasks]:  # were a task to die first, its slurmstepd would report it
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if told:
            self._run("scontrol", "update", f"nodename={name}", "state=down", "reason=lost")

    def logs(self) -> str:
        """The last lines of each daemon."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)

    def stop(self) -> None:
        """End everything at once; nothing of it is needed again."""
        for name in NODES:
            with suppress(OSError, psutil.Error):
                self.lose_node(name)
        for file in (self.folder / "slurmctld.pid", self.folder / "munge/pid"):
            with suppress(OSError):
                os.kill(int(file.read_text()), signal.SIGKILL)

    def _is_task(self, process: psutil.Process, node: str) -> bool:
        """Whether a process belongs to a job on a node of this cluster."""
        try:
            variables = process.environ()
        except psutil.Error:
            return False
        return variables.get("SLURMD_NODENAME") == node and f"{self.folder}/bin" in variables.get("PATH", "")

    def _run(self, *command: str) -> str:
        program = shutil.which(command[0], path=SEARCH)
        assert program, f"{command[0]} is not installed"
        run = subprocess.run(
            [program, *command[1:]], env=os.environ | self.environment, text=True, capture_output=True, timeout=20
        )
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)}: {run.stdout}{run.stderr}")
        return run.stdout


def submit(place: Place, *arguments: str, settings: dict) -> list[str]:
    """The command line that runs the workflow with the profile as it is, waiting less than on a cluster far away."""
    options = ["--workflow-profile", f"{place.checkout}/profiles/slurm", "--max-threads", "1", "--latency-wait", "5"]
    options += ["--slurm-init-seconds-before-status-checks", "5", *arguments]
    return place.command(*options, settings=settings)


class Training:
    """A `snakemake` that trains on the cluster, in the background."""

    def __init__(self, finished: Place, folder: Path, cluster: Cluster, *resources: str, tracking: dict | None = None):
        settings = LONG | ({"tracking": tracking} if tracking else {})
        shutil.copytree(finished.folder, folder)
        shutil.rmtree(folder / "results/example/model")
        self.place, self.cluster, self.output = Place(folder, finished.checkout), cluster, folder / "output.txt"
        self.command = submit(self.place, "--set-resources", "train:gpu=0", *resources, "--", MODEL, settings=settings)
        (folder / "logs/example/train.log").unlink()
        self.start(*self.command)

    def start(self, *command: str) -> None:
        """Start a snakemake."""
        with open(self.output, "w") as output:
            self.snakemake = subprocess.Popen(
                command, cwd=self.place.folder, env=self.place.environment(**self.cluster.environment), stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """Kill snakemake; its jobs do not hear of it."""
        if self.snakemake.poll() is None:
            os.killpg(self.snakemake.pid, signal.SIGKILL)
            self.snakemake.wait()

    @property
    def log(self) -> str:
        """What the running or last attempt has printed."""
        file = self.place.folder / "logs/example/train.log"
        return file.read_text() if file.exists() else ""

    def pause(self) -> dict[str, str]:
        """Stop training in its third epoch, as a node that hangs would, and return its job."""
        until = time.monotonic() + 90
        while "epoch 2/" not in self.log:
            output = self.output.read_text()
            assert "Error in rule" not in output and time.monotonic() < until, output + self.log
            time.sleep(0.02)
        self.process().suspend()
        assert f"epoch {EPOCHS}/" not in self.log
        return self.cluster.job_of(self.place.folder, "train")

    def process(self) -> psutil.Process:
        """The process that trains."""
        for process in psutil.process_iter():
            try:
                if process.cmdline()[2:3] == ["train"] and process.cwd() == str(self.place.folder):
                    return process
            except psutil.Error:
                continue
        raise RuntimeError(f"no training runs in {self.place.folder}")

    def finish(self) -> str:
        """Wait until snakemake has ended well; returns what it printed."""
        code = self.snakemake.wait(timeout=180)
        assert code == 0, self.output.read_text() + self.log
        return self.output.read_text()

    def slurm_log(self, job: dict[str, str]) -> str:
        """What a job printed."""
        return Path(job["StdOut"]).read_text()

    def weights(self) -> bytes:
        return (self.place.folder / MODEL).read_bytes()


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
