"""What every result is written with: machine, versions, commit, date."""

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

from molvae.runtime.provenance import git_commit, versions


def options(about: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="smaller: under 50 s on two cores")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser


def write(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result to a file, if one was asked for."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**result, **circumstances()}, indent=1) + "\n")


def circumstances() -> dict[str, Any]:
    """Where and when a figure was measured."""
    processor = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown")
    machine = {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.platform(),
    }
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    return {"machine": machine, "versions": versions(), "commit": git_commit(), "date": date}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def median(values: list[float]) -> float:
    """The figure to quote."""
    return statistics.median(values)


def run_measured(command: list[str], **options: Any) -> dict[str, float]:
    """Run a command to its end: seconds, and the most memory that it and its children held at once.

    Memory is the sum of the proportional set sizes, so that pages which processes share count once.
    """
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(1.0):
            peak = max(peak, _memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with exit code {code}")
    return {"seconds": time.monotonic() - began, "peak_mb": peak / 2**20}


def _memory(pid: int) -> int:
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
