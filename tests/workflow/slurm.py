"""A real SLURM on the loopback interface: a controller and two nodes, all processes of this machine."""

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
from workspace import EXPERIMENT, Workspace, change_settings

NODES = ("node1", "node2")
EPOCHS = 60  # take some seconds: time to interrupt training
UNTRACKED = {"tracking": {"enabled": False}}
LONG_TRAINING = change_settings(train={"epochs": EPOCHS}) | UNTRACKED
MODEL = f"results/{EXPERIMENT}/model/model.safetensors"
PROGRAM_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where daemons are, if not on the PATH
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


def list_missing_programs() -> list[str]:
    """List what this machine lacks to run a SLURM and submit jobs to it."""
    programs = [
        name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PROGRAM_PATH)
    ]
    return programs + ["snakemake-executor-plugin-slurm"] * (find_spec("snakemake_executor_plugin_slurm") is None)


class Cluster:
    """The controller, the nodes and their folder."""

    def __init__(self, folder: Path, *, cores: int = 4):
        """Write the files of the cluster.

        Args:
            folder: where they go.
            cores: cores that each node claims to have, whatever this machine has.
        """
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for name in ("munge", "state", *NODES):
            (folder / name).mkdir(mode=0o700)
        (folder / "munge/key").write_bytes(os.urandom(1024))
        (folder / "munge/key").chmod(0o400)
        names = {"host": socket.gethostname().split(".")[0], "user": psutil.Process().username()}
        (folder / "slurm.conf").write_text(
            CONFIG.format(folder=folder, cores=cores, ports=_find_free_ports(3), **names)
        )
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        # the plugin removes SLURM_CONF from the environment of srun, because a cluster has its file in /etc
        srun = f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun", path=PROGRAM_PATH)} "$@"\n'
        (folder / "bin/srun").write_text(srun)
        (folder / "bin/srun").chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the shell of a user of this cluster has."""
        return {"SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": f"{self.folder}/bin:{PROGRAM_PATH}"}

    def start(self) -> None:
        """Start controller and nodes, and wait until the nodes are idle."""
        munge = self.folder / "munge"
        self._run(
            "munged",
            "--force",
            f"--socket={munge}/socket",
            f"--key-file={munge}/key",
            f"--pid-file={munge}/pid",
            f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
        )
        self._run("slurmctld")
        for name in NODES:
            self.start_node(name)

    def start_node(self, name: str) -> None:
        """Start a node, also one that failed."""
        self._run("slurmd", "-N", name)
        self.wait_for(name, "idle")

    def wait_for(self, node: str, state: str, seconds: float = 60) -> None:
        """Wait until a node is in a state."""
        current, until = "", time.monotonic() + seconds
        while time.monotonic() < until:
            with suppress(subprocess.SubprocessError):  # the controller may not answer yet
                current = self.get_node_state(node)
            if current == state:
                return
            time.sleep(0.25)
        raise RuntimeError(f"{node} is {current!r}, not {state!r}, after {seconds} s:\n{self.read_logs()}")

    def list_jobs(self) -> list[dict[str, str]]:
        """List the jobs of the last hour, with all that SLURM knows of each."""
        lines = self._run("scontrol", "--oneliner", "--all", "show", "jobs").splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]

    def find_latest_job(self, folder: Path, rule: str) -> dict[str, str]:
        """Find the latest job of a rule in a working directory."""
        jobs = [job for job in self.list_jobs() if job["WorkDir"] == str(folder) and f"rule_{rule}_" in job["Comment"]]
        return max(jobs, key=lambda job: int(job["JobId"]))

    def cancel(self, job: str) -> None:
        """End a job as its owner would."""
        self._run("scancel", job)

    def signal(self, job: str, name: str) -> None:
        """Send a signal to all processes of a job."""
        self._run("scancel", f"--signal={name}", "--full", job)

    def get_node_state(self, node: str) -> str:
        """Get the state of a node, as the controller knows it."""
        return self._run("sinfo", "--noheader", "--nodes", node, "--format", "%T").strip()

    def kill_node(self, name: str, *, is_reported: bool = False) -> None:
        """Kill everything on a node at once, as a power cut would.

        Args:
            name: of the node.
            is_reported: report it to the controller, as the health check of a site would; else the controller
                notices within half a minute.
        """
        os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)
        tasks = [process for process in psutil.process_iter() if self._is_task(process, name)]
        managers = {parent for task in tasks for parent in task.parents() if parent.name() == "slurmstepd"}
        for process in [*managers, *tasks]:  # managers first: a slurmstepd would report the death of its task
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if is_reported:
            self._run("scontrol", "update", f"nodename={name}", "state=down", "reason=lost")

    def read_logs(self) -> str:
        """Read the last lines of each daemon's log."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)

    def stop(self) -> None:
        """Kill everything at once; nothing of it is needed again."""
        for name in NODES:
            with suppress(OSError, psutil.Error):
                self.kill_node(name)
        for file in (self.folder / "slurmctld.pid", self.folder / "munge/pid"):
            with suppress(OSError):
                os.kill(int(file.read_text()), signal.SIGKILL)

    def _is_task(self, process: psutil.Process, node: str) -> bool:
        """Tell whether a process belongs to a job on a node of this cluster."""
        try:
            variables = process.environ()
        except psutil.Error:
            return False
        return variables.get("SLURMD_NODENAME") == node and f"{self.folder}/bin" in variables.get("PATH", "")

    def _run(self, *command: str) -> str:
        program = shutil.which(command[0], path=PROGRAM_PATH)
        assert program, f"{command[0]} is not installed"
        run = subprocess.run(
            [program, *command[1:]], env=os.environ | self.environment, text=True, capture_output=True, timeout=20
        )
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)}: {run.stdout}{run.stderr}")
        return run.stdout


def build_submit_command(workspace: Workspace, *arguments: str, settings: dict) -> list[str]:
    """Build the command line that runs the workflow with the shipped profile, but with shorter waiting times."""
    options = [
        "--workflow-profile",
        f"{workspace.checkout}/profiles/slurm",
        "--max-threads",
        "1",
        "--latency-wait",
        "5",
    ]
    options += ["--slurm-init-seconds-before-status-checks", "5", *arguments]
    return workspace.build_snakemake_command(*options, settings=settings)


class Training:
    """A `snakemake` in the background that trains on the cluster."""

    def __init__(
        self,
        finished_run: Workspace,
        folder: Path,
        cluster: Cluster,
        *resources: str,
        tracking: dict | None = None,
    ):
        settings = LONG_TRAINING | ({"tracking": tracking} if tracking else {})
        shutil.copytree(finished_run.folder, folder)
        self.workspace = Workspace(folder, finished_run.checkout)
        self.cluster, self.output = cluster, folder / "output.txt"
        shutil.rmtree(self.workspace.experiment / "model")
        self.log_file.unlink()
        options = ("--set-resources", "train:gpu=0", *resources, "--", MODEL)
        self.command = build_submit_command(self.workspace, *options, settings=settings)
        self.start(*self.command)

    def start(self, *command: str) -> None:
        """Start a snakemake."""
        with open(self.output, "w") as output:
            self.snakemake = subprocess.Popen(
                command,
                cwd=self.workspace.folder,
                env=self.workspace.build_environment(**self.cluster.environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill snakemake; its jobs continue."""
        if self.snakemake.poll() is None:
            os.killpg(self.snakemake.pid, signal.SIGKILL)
            self.snakemake.wait()

    @property
    def log_file(self) -> Path:
        """The log of the rule."""
        return self.workspace.folder / "logs" / EXPERIMENT / "train.log"

    @property
    def log(self) -> str:
        """What the running or last attempt has printed."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def pause(self) -> dict[str, str]:
        """Suspend training in its third epoch, as a node that hangs would, and return its job."""
        until = time.monotonic() + 90
        while "epoch 2/" not in self.log:
            output = self.output.read_text()
            assert "Error in rule" not in output and time.monotonic() < until, output + self.log
            time.sleep(0.02)
        self.find_process().suspend()
        assert f"epoch {EPOCHS}/" not in self.log
        return self.cluster.find_latest_job(self.workspace.folder, "train")

    def find_process(self) -> psutil.Process:
        """Find the process that trains."""
        for process in psutil.process_iter():
            try:
                if process.cmdline()[2:3] == ["train"] and process.cwd() == str(self.workspace.folder):
                    return process
            except psutil.Error:
                continue
        raise RuntimeError(f"no training runs in {self.workspace.folder}")

    def finish(self) -> str:
        """Wait until snakemake has ended without an error; returns what it printed."""
        code = self.snakemake.wait(timeout=180)
        assert code == 0, self.output.read_text() + self.log
        return self.output.read_text()

    def read_slurm_log(self, job: dict[str, str]) -> str:
        """Read what a job printed."""
        return Path(job["StdOut"]).read_text()

    def read_weights(self) -> bytes:
        """Read the file of the weights."""
        return (self.workspace.folder / MODEL).read_bytes()


def _find_free_ports(n: int) -> list[int]:
    listeners = [socket.socket() for _ in range(n)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
