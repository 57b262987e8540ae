"""Kills and other faults on a workstation: does one more `snakemake` end in the results of a run left alone?

A tiny experiment is run once to its end. Each trial copies that run, deletes the outputs of one stage and of all later
ones, starts Snakemake, and sends a signal to Snakemake, to the job, or to the group of all processes, at a random
moment of that stage. Then exactly one more `snakemake --cores 2` must succeed. After SIGKILL of Snakemake
`snakemake --unlock` comes before it; a job that lost its Snakemake runs on meanwhile.
Most trials go on to the end of the stage, since later stages depend on its outputs alone; the last one goes on to
the last page. `--seed` draws other moments, `--only` does some trials or faults again, and a file that `--json` names
is taken up where it ends.

What is compared: every declared output under results. Of these, bytes or, where a file holds durations, all but them:
model.json without its durations, the checksums that depend on it in model.json and prior.json, the columns
`seconds` and `molecules_per_s` of history.csv, and in report.html the duration of training and the chart of its speed.
Records of tracking, MLflow's database and benchmarks/*.jsonl hold times and ids: of them it is asked that each record
can be read, that the database passes SQLite's integrity check, and that there is a finished run of the stage.

`lost` counts runs that do not end well, outputs that are missing and stages without a record. `wrong` counts other
results, tracebacks, hangs, processes that live on, and temporary files beside results. What processes that were killed
by SIGKILL leave in the folder for temporary files no program can remove: it is counted in the outcomes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from record import make_parser, write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/workflow"))

from workspace import EXPERIMENT, Workspace, change_settings, copy_checkout, copy_molecules

SETTINGS = change_settings(
    train={"epochs": 3},
    sample={"n": 30, "max_tokens": 40},
    prior={"kind": "mixture", "components": 4, "draws": 1000},
    latent={"max_tokens": 40},
    experiments={EXPERIMENT: {}, "other": {"model": {"latent_dim": 8}}},
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("Snakemake", "the job", "the group")
KILLS = 54
QUICK_STAGES = ["fetch", "featurize_shard", "featurize"]
Fault = Callable[[Workspace, dict[str, str], Path], dict[str, Any]]
MARK = "MOLVAE_CRASH_TRIAL"  # in the environment of all processes of a trial
HANG_SECONDS = 300
OURS = f"results/{EXPERIMENT}"  # the experiment that faults happen to
DURATIONS = ("seconds", "molecules_per_s")
TRACEBACK = "Traceback (most recent call last)"


class Stage(NamedTuple):
    """A rule of the workflow.

    Attributes:
        command: of `molvae`.
        log: of its first job, below logs.
        option: that tells its jobs from those of another rule with the same command.
        outputs: patterns of all files that it writes.
        target: file to ask Snakemake for.
    """

    command: str
    log: str
    option: str
    outputs: tuple[str, ...]
    target: str


STAGES = {
    "fetch": Stage("fetch", "datasets/*", "--out", ("results/datasets/*.parquet", "results/datasets/*.json"), ""),
    "featurize_shard": Stage("featurize", f"{EXPERIMENT}/featurize_shard.1-of-2", "--shard", (f"{OURS}/tokens/*",), ""),
    "featurize": Stage(
        "featurize", f"{EXPERIMENT}/featurize", "--merge", (f"{OURS}/tokens/*",), f"{OURS}/tokens/counts.json"
    ),
    "train": Stage(
        "train",
        f"{EXPERIMENT}/train",
        "--out",
        (f"{OURS}/model/[mhdc]*", f"{OURS}/checkpoints/*"),
        f"{OURS}/model/counts.json",
    ),
    "prior": Stage("prior", f"{EXPERIMENT}/prior", "--tokens", (f"{OURS}/model/prior.*",), f"{OURS}/model/prior.json"),
    "latent": Stage(
        "latent", f"{EXPERIMENT}/latent", "--out", (f"{OURS}/latent/*",), f"{OURS}/latent/diagnostics.json"
    ),
    "sample_shard": Stage("sample", f"{EXPERIMENT}/sample_shard.1-of-2", "--shard", (f"{OURS}/samples/*",), ""),
    "sample": Stage("sample", f"{EXPERIMENT}/sample", "--merge", (f"{OURS}/samples/*",), f"{OURS}/samples/counts.json"),
    "validate_shard": Stage(
        "validate", f"{EXPERIMENT}/validate_shard.1-of-2", "--shard", (f"{OURS}/validation/*",), ""
    ),
    "validate": Stage(
        "validate", f"{EXPERIMENT}/validate", "--merge", (f"{OURS}/validation/*",), f"{OURS}/validation/counts.json"
    ),
    "report": Stage("report", f"{EXPERIMENT}/report", "--out", (f"{OURS}/report.html",), f"{OURS}/report.html"),
    "compare": Stage(
        "compare", "comparison/compare", "--out", ("results/comparison/*.*",), "results/comparison/comparison.html"
    ),
}
TARGET_OF = {"featurize_shard": "featurize", "sample_shard": "sample", "validate_shard": "validate"}
DECLARED = ("datasets/*.parquet", "datasets/*.json", "*/tokens/*.*", "*/model/*.*", "*/latent/*.*", "*/samples/*.*",
            "*/validation/*.*", "*/report.html", "comparison/*.json", "comparison/*.html")  # fmt: skip


# Outputs


def take_checksums(folder: Path) -> dict[str, str]:
    """Take the checksum of each declared output below `folder`/results, without durations."""
    results = folder / "results"
    paths = sorted({path for pattern in DECLARED for path in results.glob(pattern) if path.is_file()})
    return {
        path.relative_to(results).as_posix(): hashlib.sha256(read_content(path)).hexdigest()
        for path in paths
        if path.suffix != ".jsonl" and not path.name.endswith(".tmp")
    }


def read_content(path: Path) -> bytes:
    """Read an output, without durations and what follows from them."""
    content = path.read_bytes()
    try:
        return remove_durations(path, content)
    except (ValueError, IndexError):  # a fault has cut it
        return content


def remove_durations(path: Path, content: bytes) -> bytes:
    """Remove what an output holds of durations, and what follows from them."""
    if path.name in ("model.json", "prior.json"):
        card = json.loads(content)
        card.get("training", {}).pop("seconds", None)
        card["metrics"] = {name: value for name, value in card["metrics"].items() if name not in DURATIONS}
        card.pop("checksums", None)
        return json.dumps(card).encode()
    if path.name == "history.csv":
        rows = [line.split(",") for line in content.decode().splitlines()]
        kept = [i for i, name in enumerate(rows[0]) if name not in DURATIONS]
        return "\n".join(",".join(row[i] for i in kept) for row in rows).encode()
    if path.name == "report.html":
        text = re.sub(r"[\d.,]+ (s|min|h) on cpu", "", content.decode())
        return "\n".join(line for line in text.splitlines() if "training speed" not in line).encode()  # a chart
    return content


def list_temporary_files(folder: Path) -> list[str]:
    """List temporary files of unfinished outputs in a working directory."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*.tmp"))


def check_records(folder: Path, stage: str) -> list[str]:
    """List what is wrong with the records of tracking."""
    problems = []
    for path in folder.glob("results/*/tracking/*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            problems.append(f"record {path.name} cannot be read")
    database = folder / "results/mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
    if answer != "ok":
        problems.append(f"mlflow.db: {answer}")
    return problems


# A trial


class Trial:
    """A copy of the clean run in a folder of its own, with all processes that run in it.

    Attributes:
        workspace: of the copy.
        name: unique.
        environment: of all its processes.
    """

    def __init__(self, clean: Workspace, folder: Path) -> None:
        self.name = f"{folder.parent.name}-{folder.name}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(clean.folder, folder / "run", symlinks=True)
        (folder / "tmp").mkdir()
        self.folder, self.workspace = folder, Workspace(folder / "run", clean.checkout)
        self.environment = {MARK: self.name, "TMPDIR": str(folder / "tmp")}
        self.output = ""

    def delete_from(self, stage: str) -> None:
        """Delete the outputs of a stage and of all later ones."""
        names = list(STAGES)
        for name in names[names.index(stage) :]:
            for pattern in STAGES[name].outputs:
                for path in self.workspace.folder.glob(pattern):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def start(self, *arguments: str) -> psutil.Popen:
        """Start Snakemake in the background, in a group of its own."""
        command = self.workspace.build_snakemake_command(*arguments, settings=SETTINGS)
        self.log = self.folder / f"snakemake-{time.monotonic_ns()}.log"
        with open(self.log, "w") as log:
            return psutil.Popen(
                command, cwd=self.workspace.folder, env=self.workspace.build_environment(**self.environment),
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def run(self, *arguments: str) -> int | None:
        """Run Snakemake to its end; returns the exit code, None for a hang. What it printed is then `output`."""
        return self.wait(self.start(*arguments))

    def wait(self, process: psutil.Popen) -> int | None:
        """Wait for a process; a hang ends with its death."""
        try:
            code: int | None = process.wait(timeout=HANG_SECONDS)
        except psutil.TimeoutExpired:
            code = None
            self.kill_all()
            process.wait()
        self.output = self.log.read_text(errors="replace")
        return code

    def run_shell(self, command: str, timeout: float = HANG_SECONDS, **environment: str) -> tuple[int | None, str]:
        """Run a command of the shell in the working directory; returns the exit code, None for a hang, and output."""
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=self.workspace.folder, text=True, errors="replace",
            env=self.workspace.build_environment(**self.environment, **environment),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]
        return process.returncode, output

    def find_processes(self) -> list[psutil.Process]:
        """Find all processes of this trial that live."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.name:
                    found.append(process)
        return found

    def find_job(self, stage: str, snakemake: psutil.Popen) -> psutil.Process | None:
        """Wait for the process of a stage's job; None if Snakemake ends first."""
        rule = STAGES[stage]
        while snakemake.poll() is None:
            with suppress(psutil.Error):
                for process in snakemake.children(recursive=True):
                    words = process.cmdline()
                    is_stage = len(words) > 3 and words[1].endswith("/molvae") and words[2] == rule.command
                    if is_stage and rule.option in words:
                        return process
            time.sleep(0.02)
        return None

    def wait_for_orphans(self, seconds: float = 90) -> list[str]:
        """Wait for processes that lost their Snakemake; returns those that live on."""
        end = time.monotonic() + seconds
        while (processes := self.find_processes()) and time.monotonic() < end:
            time.sleep(0.2)
        names = []
        for process in processes:
            with suppress(psutil.Error):
                names.append(" ".join(process.cmdline())[:80])
        self.kill_all()
        return names

    def kill_all(self) -> None:
        """Kill all processes of this trial."""
        for process in self.find_processes():
            with suppress(psutil.Error):
                process.kill()

    def list_tmpdir(self) -> list[str]:
        """List what is left in the folder for temporary files."""
        names = (path.name for path in (self.folder / "tmp").iterdir())
        shared = ("molvae-gpus-", "torchinductor_")  # one of each for a user, for all processes
        return sorted(name for name in names if not name.startswith(shared))


def choose_target(clean: Workspace, stage: str) -> list[str]:
    """Choose what to ask Snakemake for, so that it runs up to the end of a stage."""
    if stage == "fetch":
        return [str(path.relative_to(clean.folder)) for path in clean.folder.glob("results/datasets/*.json")]
    return [STAGES[TARGET_OF.get(stage, stage)].target]


class Kill(NamedTuple):
    """A kill: which stage, signal and target, at which part of the usual duration, and whether all stages follow."""

    number: int
    stage: str
    signal: signal.Signals
    target: str
    moment: float
    full: bool

    @property
    def name(self) -> str:
        """For --only."""
        return f"kill {self.number}: {self.signal.name} of {self.target}, {self.stage}"


def draw_kills(seed: int, n: int, among: list[str]) -> list[Kill]:
    """Draw `n` kills: each of the stages `among`, signals and targets in turn, at random moments."""
    kills: list[Kill] = []
    stages: list[str] = []
    combinations: list[tuple[signal.Signals, str]] = []
    for number in range(n):
        rng = random.Random(f"{seed} {number}")
        if not stages:
            stages = rng.sample(among, len(among))
        if not combinations:
            pairs = [(signal_, target) for signal_ in SIGNALS for target in TARGETS]
            combinations = rng.sample(pairs, len(pairs))
        stage, (number_, target) = stages.pop(), combinations.pop()
        kills.append(Kill(number, stage, number_, target, rng.random(), number == KILLS - 1))
    return kills


def try_kill(kill: Kill, clean: Workspace, folder: Path, durations: dict[str, float]) -> dict[str, Any]:
    """Run one trial; returns what happened."""
    began = time.monotonic()
    trial = Trial(clean, folder)
    trial.delete_from(kill.stage)
    wanted = [] if kill.full else choose_target(clean, kill.stage)
    expected = take_checksums(clean.folder)
    problems: list[str] = []
    lost: list[str] = []
    snakemake = trial.start(*wanted)
    job = trial.find_job(kill.stage, snakemake)
    happened = "the stage ended first"
    if job is not None:
        time.sleep(kill.moment * durations[kill.stage])
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if snakemake.poll() is not None or not job.is_running() or job.status() == psutil.STATUS_ZOMBIE:
                raise ProcessLookupError
            if kill.target == "the group":
                os.killpg(snakemake.pid, kill.signal)
            elif kill.target == "Snakemake":
                os.kill(snakemake.pid, kill.signal)
            else:
                job.send_signal(kill.signal)
            happened = "killed"
    sent = time.monotonic()
    first = trial.wait(snakemake)
    stopped = time.monotonic() - sent
    if first is None:
        problems.append("hang of the first command")
    if TRACEBACK in trial.output:
        problems.append("traceback of the first command")
    first_output = trial.output
    after_kill = trial.list_tmpdir()
    if kill.signal == signal.SIGKILL and first == -signal.SIGKILL:
        trial.run("--unlock")
    second = trial.run(*wanted)
    if second != 0:
        lost.append(f"the second command ended with {second}")
    if TRACEBACK in trial.output:
        problems.append("traceback of the second command")
    alive = trial.wait_for_orphans()
    problems += [f"lives on: {name}" for name in alive]
    problems += check_records(trial.workspace.folder, kill.stage)
    got = take_checksums(trial.workspace.folder)
    reached = set(expected) if kill.full else {name for name in expected if is_reached(name, kill.stage)}
    lost += [f"missing: {name}" for name in sorted(reached) if name not in got]
    problems += [f"differs: {name}" for name in sorted(got) if name in expected and got[name] != expected[name]]
    if surplus := sorted(set(got) - set(expected)):
        problems += [f"surplus: {name}" for name in surplus]
    problems += [f"temporary file: {name}" for name in list_temporary_files(trial.workspace.folder)]
    command = STAGES[kill.stage].command
    records = [
        path.read_text()
        for path in trial.workspace.folder.glob(f"results/*/tracking/{command}-*.json")
        if not (clean.folder / path.relative_to(trial.workspace.folder)).exists()
    ]
    if command != "fetch" and not any('"FINISHED"' in record for record in records):
        lost.append("no finished record")
    row = {
        "name": kill.name, "stage": kill.stage, "signal": kill.signal.name, "target": kill.target,
        "moment": round(kill.moment, 3), "full": kill.full, "happened": happened, "first": first,
        "seconds_to_stop": round(stopped, 1), "second": second, "lost": lost, "wrong": problems,
        "left_in_tmpdir": after_kill, "left_in_tmpdir_at_the_end": trial.list_tmpdir(),
        "seconds": round(time.monotonic() - began),
    }  # fmt: skip
    if lost or problems:
        (folder / "first.log").write_text(first_output)
    else:
        shutil.rmtree(folder)
    return row


def is_reached(name: str, stage: str) -> bool:
    """Whether a run up to the end of a stage makes this output of the experiment."""
    stages = list(STAGES)
    last = stages.index(TARGET_OF.get(stage, stage))
    path = Path("results", name)
    makers = [i for i, rule in enumerate(STAGES.values()) if any(path.match(pattern) for pattern in rule.outputs)]
    return bool(makers) and min(makers) <= last


def _name_outcome(trial: dict[str, Any]) -> str:
    if trial["first"]:
        return "as the clean run after one more command"
    return "ended well in spite of it" if trial["happened"] == "killed" else "the stage had ended before"


def summarise_kills(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Summarise kills by signal and target."""
    rows = []
    for number in SIGNALS:
        for target in TARGETS:
            some = [trial for trial in trials if (trial["signal"], trial["target"]) == (number.name, target)]
            if not some:
                continue
            outcomes = Counter(_name_outcome(trial) for trial in some if not trial["lost"] and not trial["wrong"])
            outcomes["left something in TMPDIR"] = sum(bool(trial["left_in_tmpdir"]) for trial in some)
            rows.append(
                {
                    "fault": f"{number.name} of {target}", "tried": len(some), "outcomes": dict(+outcomes),
                    "lost": sum(bool(trial["lost"]) for trial in some),
                    "wrong": sum(bool(trial["wrong"]) for trial in some),
                }
            )  # fmt: skip
    return rows


# Other faults


def get_last_line(output: str) -> str:
    """Get the last line of an output, or its first 200 characters."""
    return (output.strip().splitlines() or ["nothing printed"])[-1][:200]


class Count:
    """Counts what happened in the tries of a fault."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.lost: list[str] = []
        self.wrong: list[str] = []

    def add(self, name: str, code: int | None, output: str, same: bool | None) -> None:
        """Add a try: a clear refusal or the right result is well, anything else is wrong.

        Args:
            name: of the try.
            code: exit code; None for a hang.
            output: what it printed.
            same: whether the results are those of the clean run; None where there are none to compare.
        """
        print(f"  {name}: exit code {code}: {get_last_line(output)}", flush=True)
        if code is None:
            self.wrong.append(f"{name}: hang")
        elif TRACEBACK in output:
            self.wrong.append(f"{name}: traceback: {get_last_line(output)}")
        elif code == 0 and same:
            self.outcomes["the same results"] += 1
        elif code == 0:
            self.wrong.append(f"{name}: other results without a word")
        elif code < 0 or code > 128:
            self.outcomes[f"ended by signal {-code if code < 0 else code - 128}"] += 1
            self.wrong.append(f"{name}: ended by a signal: {get_last_line(output)}")
        elif "molvae: " in output:
            self.outcomes["refused with a message"] += 1
        else:
            self.wrong.append(f"{name}: exit code {code} without a message: {get_last_line(output)}")

    def recover(self, name: str, code: int | None, same: bool, leftovers: list[str]) -> None:
        """Add what came after the fault."""
        if code != 0:
            self.lost.append(f"{name}: afterwards exit code {code}")
        elif not same:
            self.wrong.append(f"{name}: afterwards other results")
        else:
            self.outcomes["afterwards as the clean run"] += 1
        self.wrong += [f"{name}: {leftover} is left" for leftover in leftovers]

    def make_row(self, tried: int) -> dict[str, Any]:
        """Make the row of the table."""
        return {
            "tried": tried, "outcomes": dict(self.outcomes), "lost": len(self.lost), "wrong": len(self.wrong),
            "problems": self.lost + self.wrong,
        }  # fmt: skip


def is_same(rule: str, expected: dict[str, str], got: dict[str, str], but: Path | None = None) -> bool:
    """Whether outputs are as expected after a rule was run by hand.

    Args:
        rule: that was run; `train` removes a prior fitted to other weights.
        expected: checksums of the clean run.
        got: those found.
        but: an output that was changed on purpose.
    """
    removed = ("model/prior.json", "model/prior.safetensors") if rule == "train" else ()
    left_out = {name for name in expected if (removed and name.endswith(removed)) or (but and str(but).endswith(name))}
    return all(got.get(name) == expected[name] for name in expected if name not in left_out) and set(got) <= set(
        expected
    )


def find_command(commands: dict[str, str], rule: str, experiment: str = EXPERIMENT) -> str:
    """Find the command of a rule in what the clean run printed."""
    folder = "comparison" if rule == "compare" else experiment
    if rule == "fetch":
        return next(command for log, command in commands.items() if log.startswith("logs/datasets/"))
    shard = ".1-of-2" if rule.endswith("_shard") else ""
    return commands[f"logs/{folder}/{rule}{shard}.log"]


def prepare(clean: Workspace, commands: dict[str, str], folder: Path) -> tuple[Trial, dict[str, str]]:
    """Prepare a copy of the clean run with the shards, which Snakemake has deleted; returns it and its checksums."""
    trial = Trial(clean, folder)
    for rule in ("featurize_shard", "sample_shard", "validate_shard"):
        for shard in ("1-of-2", "2-of-2"):
            code, output = trial.run_shell(find_command(commands, rule).replace("1-of-2", shard))
            assert code == 0, output
    return trial, take_all(trial)


def take_all(trial: Trial) -> dict[str, str]:
    """Take the checksums of the outputs and of the shards."""
    results = trial.workspace.folder / "results"
    shards = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in results.glob("*/*/shards/*.parquet")}
    return take_checksums(trial.workspace.folder) | shards


@contextmanager
def restore_after(trial: Trial) -> Iterator[None]:
    """Restore the results after a try."""
    results, spare = trial.workspace.folder / "results", trial.folder / "spare"
    shutil.rmtree(spare, ignore_errors=True)
    shutil.copytree(results, spare)
    try:
        yield
    finally:
        for path in results.rglob("*"):
            if path.is_file() and not (spare / path.relative_to(results)).exists():
                path.unlink()
        shutil.copytree(spare, results, dirs_exist_ok=True)


RULES = ("featurize_shard", "featurize", "train", "prior", "latent", "sample_shard", "sample", "validate_shard",
         "validate", "report", "compare")  # fmt: skip


def limit(settings: tuple[str, ...], rules: tuple[str, ...]) -> Fault:
    """Make a fault: commands that run under a limit of the shell."""

    def try_all(clean: Workspace, commands: dict[str, str], folder: Path) -> dict[str, Any]:
        count, tried = Count(), 0
        trial, expected = prepare(clean, commands, folder)
        for rule in rules:
            command = find_command(commands, rule)
            with restore_after(trial):
                for setting in settings:
                    tried += 1
                    code, output = trial.run_shell(f"{setting}; {command}")
                    count.add(f"{rule}, {setting}", code, output, is_same(rule, expected, take_all(trial)))
                leftovers = list_temporary_files(trial.workspace.folder)
                code, _ = trial.run_shell(command)
                count.recover(rule, code, is_same(rule, expected, take_all(trial)), leftovers)
        shutil.rmtree(folder)
        return count.make_row(tried)

    return try_all


def fill_disk(clean: Workspace, commands: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run commands whose output folder, or the one for temporary files, is a disk of 8 kB (root)."""
    count, tried = Count(), 0
    trial, expected = prepare(clean, commands, folder)
    experiment = trial.workspace.folder / OURS
    places = {"featurize": "tokens2", "latent": "latent", "sample": "samples2", "validate": "validation2"}
    for rule, place in places.items():
        tried += 1
        target = experiment / place
        command = find_command(commands, rule).replace(f"--out {OURS}/{place.rstrip('2')} ", f"--out {OURS}/{place} ")
        with restore_after(trial):
            target.mkdir(exist_ok=True)
            with mount(target, "-t", "tmpfs", "-o", "size=8k", "tmpfs"):
                code, output = trial.run_shell(command)
                count.add(rule, code, output, None)
                left = list_temporary_files(trial.workspace.folder)
            code, _ = trial.run_shell(find_command(commands, rule))
            count.recover(rule, code, take_all(trial) == expected, left)
    tried += 1
    whole = find_command(commands, "featurize").split(" --merge")[1]
    rows = next((trial.workspace.folder / "results/datasets").glob("*.parquet"))
    with mount(trial.folder / "tmp", "-t", "tmpfs", "-o", "size=8k", "tmpfs"):
        code, output = trial.run_shell(f"molvae featurize {rows} {whole}".replace(f"{OURS}/tokens", "again"))
        count.add("featurize, temporary folder", code, output, None)
    shutil.rmtree(folder)
    return count.make_row(tried)


@contextmanager
def mount(folder: Path, *options: str) -> Iterator[None]:
    """Mount something at a folder."""
    subprocess.run(["mount", *options, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def forbid_writing(clean: Workspace, commands: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run commands and Snakemake with results that nobody may write to: mounted read-only, or without permission."""
    count, tried = Count(), 0
    trial, expected = prepare(clean, commands, folder)
    results = trial.workspace.folder / "results"
    with make_read_only(results):
        for rule in RULES:
            tried += 1
            code, output = trial.run_shell(find_command(commands, rule))
            count.add(rule, code, output, None)
    if take_all(trial) != expected:
        count.wrong.append("results have changed")
    trial.delete_from("report")
    with make_read_only(results):
        tried += 1
        code = trial.run(STAGES["report"].target)
        if code == 0 or TRACEBACK in trial.output or "cannot be written to: it is read-only" not in trial.output:
            count.wrong.append(f"Snakemake: exit code {code}: {get_last_line(trial.output)}")
        else:
            count.outcomes["Snakemake refuses and names the folder"] += 1
    code = trial.run()
    count.recover("Snakemake", code, take_checksums(trial.workspace.folder) == take_checksums(clean.folder),
                  list_temporary_files(trial.workspace.folder))  # fmt: skip
    shutil.rmtree(folder)
    return count.make_row(tried)


@contextmanager
def make_read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only; for root, whom permissions do not stop, by a mount."""
    if os.getuid() == 0:
        with mount(folder, "--bind", str(folder)):
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
            yield
        return
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in folders:
            path.chmod(0o755)


def move_clock(clean: Workspace, commands: dict[str, str], folder: Path) -> dict[str, Any]:
    """Let all files come from tomorrow, as after a clock that is moved back; then set the clock right."""
    count, stages = Count(), ("prior", "sample_shard", "report")
    for stage in stages:
        trial = Trial(clean, folder)
        shift_times(trial.workspace.folder, 86_400)
        trial.delete_from(stage)
        code = trial.run(*choose_target(clean, stage))
        if code != 0 and "older modification time" in trial.output and TRACEBACK not in trial.output:
            count.outcomes["Snakemake refuses and names the clock"] += 1
        else:
            count.add(stage, code, trial.output, trial_equals(trial, clean, stage))
        shift_times(trial.workspace.folder, -86_400)
        code = trial.run(*choose_target(clean, stage))
        leftovers = list_temporary_files(trial.workspace.folder)
        count.recover(stage, code, trial_equals(trial, clean, stage), leftovers)
        shutil.rmtree(folder)
    return count.make_row(len(stages))


def shift_times(folder: Path, seconds: float) -> None:
    """Add seconds to the times of all files below a folder."""
    for path in folder.rglob("*"):
        changed = path.lstat().st_mtime + seconds
        os.utime(path, (changed, changed), follow_symlinks=False)


def trial_equals(trial: Trial, clean: Workspace, stage: str) -> bool:
    """Whether the outputs up to a stage are there and all are as in the clean run."""
    got, expected = take_checksums(trial.workspace.folder), take_checksums(clean.folder)
    if changed := [name for name, checksum in got.items() if expected.get(name) != checksum]:
        print(f"  differ: {', '.join(changed)}", flush=True)
    return all(expected.get(name) == checksum for name, checksum in got.items()) and all(
        name in got for name in expected if is_reached(name, stage)
    )


def start_two_snakemakes(clean: Workspace, commands: dict[str, str], folder: Path) -> dict[str, Any]:
    """Start a second Snakemake while a first one has a job."""
    count, tried = Count(), 0
    for stage in ("featurize", "latent", "validate"):
        tried += 1
        trial = Trial(clean, folder)
        trial.delete_from(stage)
        first = trial.start(*choose_target(clean, stage))
        trial.find_job(stage, first)
        first_log = trial.log
        code = trial.run(*choose_target(clean, stage))
        refused = code == 1 and "--unlock" in trial.output and TRACEBACK not in trial.output
        trial.log = first_log
        code = trial.wait(first)
        count.outcomes["the second refuses"] += refused
        if not refused:
            count.wrong.append(f"{stage}: the second one was not refused")
        count.recover(stage, code, trial_equals(trial, clean, stage), list_temporary_files(trial.workspace.folder))
        shutil.rmtree(folder)
    return count.make_row(tried)


def start_two_trainings(clean: Workspace, commands: dict[str, str], folder: Path) -> dict[str, Any]:
    """Start two trainings into one folder, at once and one after the other; one may be killed."""
    count, tried = Count(), 0
    train = find_command(commands, "train")
    begin = f"{train} & first=$!; WAIT; {train} & second=$!; KILL; wait $first || true; wait $second"
    for wait, kill in (
        ("true", "true"),
        ("sleep 3", "true"),
        ("sleep 5", "true"),
        ("sleep 1", "sleep 4; kill -9 $first"),
    ):
        tried += 1
        trial = Trial(clean, folder)
        trial.delete_from("train")
        code, output = trial.run_shell(begin.replace("WAIT", wait).replace("KILL", kill))
        count.add(f"{wait}; {kill}", code, output, trial_equals(trial, clean, "train"))
        if left := list_temporary_files(trial.workspace.folder):
            count.wrong.append(f"{wait}; {kill}: {left} are left")
        code, output = trial.run_shell(find_command(commands, "prior"))
        count.recover(f"prior after {wait}; {kill}", code, trial_equals(trial, clean, "prior"), [])
        shutil.rmtree(folder)
    return count.make_row(tried)


CONSUMERS = {  # output -> rules that read it, one for each way in which it is read
    "results/datasets/*.parquet": ("featurize_shard",),
    "results/datasets/*.json": ("featurize_shard", "report"),
    f"{OURS}/tokens/shards/1-of-2.parquet": ("featurize",),
    f"{OURS}/tokens/tokens.safetensors": ("train",),
    f"{OURS}/tokens/vocabulary.json": ("train",),
    f"{OURS}/tokens/molecules.parquet": ("latent", "validate"),
    f"{OURS}/tokens/rejected.parquet": ("report",),
    f"{OURS}/tokens/counts.json": ("train", "report"),
    f"{OURS}/model/model.safetensors": ("prior", "sample_shard"),
    f"{OURS}/model/model.json": ("prior", "sample_shard", "report"),
    f"{OURS}/model/prior.safetensors": ("sample_shard",),
    f"{OURS}/model/prior.json": ("sample_shard", "report"),
    f"{OURS}/model/history.csv": ("report",),
    f"{OURS}/model/dimensions.csv": ("report",),
    f"{OURS}/model/counts.json": ("report",),
    f"{OURS}/latent/diagnostics.json": ("report",),
    f"{OURS}/latent/projections.parquet": ("report",),
    f"{OURS}/samples/shards/1-of-2.parquet": ("sample",),
    f"{OURS}/samples/samples.parquet": ("validate_shard",),
    f"{OURS}/samples/counts.json": ("report",),
    f"{OURS}/validation/shards/1-of-2.parquet": ("validate",),
    f"{OURS}/validation/metrics.json": ("report", "compare"),
    f"{OURS}/validation/molecules.parquet": ("report",),
    f"{OURS}/validation/reference.parquet": ("report",),
    f"{OURS}/validation/counts.json": ("report",),
}


def truncate(clean: Workspace, commands: dict[str, str], folder: Path) -> dict[str, Any]:
    """Cut each output in half, and run what reads it; cut the resume file of a training, and go on with it."""
    count, tried = Count(), 0
    trial, expected = prepare(clean, commands, folder)
    for pattern, rules in CONSUMERS.items():
        (path,) = trial.workspace.folder.glob(pattern)
        for rule in rules:
            tried += 1
            with restore_after(trial):
                os.truncate(path, path.stat().st_size // 2)
                code, output = trial.run_shell(find_command(commands, rule))
                name = f"{path.relative_to(trial.workspace.folder / 'results')} for {rule}"
                got = take_all(trial)
                same = is_same(rule, expected, got, path)
                count.add(name, code, output, same)
                if "molvae: " in output and path.name not in output:
                    count.wrong.append(f"{name}: the message does not name the file: {get_last_line(output)}")
    train = find_command(commands, "train")
    for part in (0.0, 0.1, 0.5, 0.99, "one bit"):
        tried += 1
        trial = Trial(clean, folder)
        trial.delete_from("train")
        checkpoints = trial.workspace.folder / OURS / "checkpoints"
        saved = f"ls {OURS}/checkpoints/*.safetensors"
        stop = f"{train} & until {saved}; do sleep 0.02; done; kill -9 $!"
        trial.run_shell(stop)
        (path,) = checkpoints.glob("*.safetensors")
        content = bytearray(path.read_bytes())
        if part == "one bit":
            content[-5] ^= 1
            path.write_bytes(content)
        else:
            path.write_bytes(content[: int(len(content) * float(part))])
        code, output = trial.run_shell(train)
        count.add(f"resume file, {part} of it", code, output, trial_equals(trial, clean, "train"))
        if "cannot be used" not in output:
            count.wrong.append(f"resume file, {part}: no word of it: {get_last_line(output)}")
    shutil.rmtree(folder)
    return count.make_row(tried)


def leave_locks(clean: Workspace, commands: dict[str, str], folder: Path) -> dict[str, Any]:
    """Leave the locks of processes that are gone: of Snakemake, of tracking, of the database."""
    count = Count()
    trial = Trial(clean, folder)
    trial.delete_from("report")
    snakemake = trial.start(STAGES["report"].target)
    trial.find_job("report", snakemake)
    os.killpg(snakemake.pid, signal.SIGKILL)
    trial.wait(snakemake)
    code = trial.run(STAGES["report"].target)
    if code == 0 or "--unlock" not in trial.output or TRACEBACK in trial.output:
        count.wrong.append(f"lock of Snakemake: exit code {code}: {get_last_line(trial.output)}")
    else:
        count.outcomes["Snakemake refuses and names --unlock"] += 1
    trial.run("--unlock")
    results = trial.workspace.folder / "results"
    for name in (f"{EXPERIMENT}/tracking/.lock", "mlflow.db.lock", "mlflow.db-journal"):
        (results / name).write_bytes(b"12345\n" * 100)
    code = trial.run(STAGES["report"].target)
    if "tracking failed" in trial.output:
        count.lost.append("tracking failed because of a stale lock")
    count.recover("stale locks", code, trial_equals(trial, clean, "report"), [])
    if problems := check_records(trial.workspace.folder, "report"):
        count.wrong += problems
    shutil.rmtree(folder)
    return count.make_row(2)


FAULTS: dict[str, Fault] = {
    "two Snakemakes in one folder": start_two_snakemakes,
    "two trainings into one folder": start_two_trainings,
    "stale locks": leave_locks,
    "the clock moved back": move_clock,
    "a limit on memory": limit(
        ("ulimit -v 300000", "ulimit -v 600000", "ulimit -v 1200000"),
        ("featurize_shard", "train", "sample_shard", "latent", "validate"),
    ),
    "too few file descriptors": limit(
        ("ulimit -n 8", "ulimit -n 32", "ulimit -n 64"), ("featurize_shard", "train", "report")
    ),
    "a limit on file sizes, as a full disk": limit(
        ("ulimit -f 1",), ("featurize_shard", "featurize", "train", "prior", "latent", "sample", "report", "compare")
    ),
    "results are read-only": forbid_writing,
    "a truncated file": truncate,
    **({"a full disk": fill_disk} if os.getuid() == 0 else {}),
}


# The program


def run_clean(root: Path, stages: list[str]) -> tuple[Workspace, dict[str, float], dict[str, str]]:
    """Run the experiment to the end of stages; returns its folder, the seconds of each, and the command of each log."""
    clean = Workspace(root / "clean", root / "checkout")
    if not (root / "output.txt").exists():
        copy_checkout(clean.checkout)
        clean.folder.mkdir(exist_ok=True)
        copy_molecules(clean.folder)
        wanted = [target] if (target := STAGES[stages[-1]].target) and stages == QUICK_STAGES else []
        (root / "output.txt").write_text(clean.run_snakemake(*wanted, settings=SETTINGS))
    output = (root / "output.txt").read_text()
    pairs = re.findall(r"^Shell command: (molvae .*) 2>&1 \| tee -i (\S+)$", output, re.M)
    commands = {log: command for command, log in pairs}
    durations = {}
    for name in stages:
        stage = STAGES[name]
        (path,) = clean.folder.glob(f"logs/{stage.log}.log")
        measured = find_benchmark(clean.folder, path)
        durations[name] = float(json.loads(measured.read_text().splitlines()[-1])["s"])
    return clean, durations, commands


def find_benchmark(folder: Path, log: Path) -> Path:
    """Find the file with the time of the job of a log."""
    place = log.parent.name
    middle = "" if place in ("datasets", "comparison") else "benchmarks/"
    return folder / f"results/{place}/{middle}{log.stem}.jsonl"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how many (default {KILLS})")
    parser.add_argument("--only", help="do trials and faults again whose name matches this regular expression")
    parser.add_argument(
        "--folder", type=Path, help="folder of the runs, which stays; the clean run in it is used again"
    )
    arguments = parser.parse_args()
    root = arguments.folder or Path(tempfile.mkdtemp(prefix="molvae-crash-"))
    root.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background shells ignore it for all below them
    old: dict[str, Any] = {}
    if arguments.json and arguments.json.exists():
        old = json.loads(arguments.json.read_text())
    if old.get("seed") != arguments.seed:
        old = {}
    trials = {trial["name"]: trial for trial in old.get("kills", [])}
    faults = {row["fault"]: row for row in old.get("faults", [])}

    def keep() -> list[dict[str, Any]]:
        done = sorted(trials.values(), key=lambda trial: int(trial["name"].split()[1].rstrip(":")))
        rows = summarise_kills(done) + list(faults.values())
        write_result(
            arguments.json, {"seed": arguments.seed, "rows": rows, "kills": done, "faults": list(faults.values())}
        )
        return rows

    def is_due(name: str, done: dict[str, Any]) -> bool:
        return bool(re.search(arguments.only, name)) if arguments.only else name not in done

    stages = QUICK_STAGES if arguments.quick else list(STAGES)
    clean, durations, commands = run_clean(root, stages)
    for kill in draw_kills(arguments.seed, 2 if arguments.quick else arguments.kills, stages):
        if is_due(kill.name, trials):
            trials[kill.name] = try_kill(kill, clean, root / f"kill-{kill.number}", durations)
            print(json.dumps(trials[kill.name]), flush=True)
            keep()
    for name, fault in FAULTS.items():
        if is_due(name, faults) and not arguments.quick:
            faults[name] = {"fault": name, **fault(clean, commands, root / re.sub(r"\W+", "-", name))}
            keep()
    rows = keep()
    for row in rows:
        print(json.dumps(row))
    if not arguments.folder:
        shutil.rmtree(root)
    if any(row["lost"] or row["wrong"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
