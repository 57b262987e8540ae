"""What the benchmark programs share: their options, the file of their result, and how a command is measured."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from molvae.runtime.provenance import get_git_commit, get_versions


def make_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller: under 60 s on two cores")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result with its circumstances to a file; nothing where no file is given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**result, **describe_circumstances()}, indent=1) + "\n")


def describe_circumstances() -> dict[str, Any]:
    """Describe where and when a result was measured: machine, versions, commit, date."""
    names = (line.split(":")[1].strip() for line in _read_cpuinfo() if line.startswith("model name"))
    machine = {
        "processor": next(names, "unknown"),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.platform(),
    }
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    return {"machine": machine, "versions": get_versions(), "commit": get_git_commit(), "date": date}


def _read_cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def print_ratio(ratio: float) -> None:
    """Print the last line of a benchmark with a peer: ours over the peer's, above 1 is better."""
    print(f"ratio {ratio:.2f}")


def compute_median(values: list[float]) -> float:
    """Compute the value to quote."""
    return statistics.median(values)


def run_measured(command: list[str], **options: Any) -> dict[str, float]:
    """Run a command to its end, and measure its seconds, its CPU seconds, and the most memory it held at once.

    Children count, too. Memory is the sum of the proportional set sizes: pages which processes share count once.

    Args:
        command: program and arguments.
        options: of `subprocess.Popen`.
    """
    began, cpu_before = time.monotonic(), _get_cpu_seconds_of_children()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(1.0):
            peak = max(peak, _measure_memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with exit code {code}")
    cpu_seconds = _get_cpu_seconds_of_children() - cpu_before
    return {"seconds": time.monotonic() - began, "cpu_seconds": cpu_seconds, "peak_mb": peak / 2**20}


def _get_cpu_seconds_of_children() -> float:
    """Of the processes that this one has waited for, theirs included."""
    times = os.times()
    return times.children_user + times.children_system


def _measure_memory(pid: int) -> int:
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total
