"""A new user's first minutes: clone the last commit, `make run` on two cores; wall and CPU time and memory by stage.

With --quick the files of this checkout run as they are in the environment of this Python, nothing is installed,
molecules, networks and samples are few, and the run ends with the metrics, before the report.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import make_parser, run_measured, write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/workflow"))

from workspace import EXPERIMENT, Workspace, change_settings, copy_checkout, copy_molecules

ROOT = Path(__file__).parent.parent
QUICK = change_settings(
    train={"epochs": 1},
    sample={"n": 30, "max_tokens": 32},
    tracking={"enabled": False},
)
QUICK_OPTIONS = ("--set-scatter", "rows=1", "samples=1", "--", f"results/{EXPERIMENT}/validation/metrics.json")


def install(folder: Path) -> dict[str, float]:
    """Clone the last commit into a folder and install it; returns what the installation took."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return run_measured(["make", ".venv/.installed"], cwd=folder)


def run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> dict[str, float]:
    """Run the workflow in a folder, and check that the same command again finds nothing to do.

    Returns:
        what the first run took.
    """
    usage = run_measured(command, cwd=folder, stderr=subprocess.DEVNULL, env=environment)
    again = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment)
    if "Nothing to be done" not in again.stdout + again.stderr:
        raise SystemExit("the same command again found something to do")
    return usage


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """Read what Snakemake measured of each job, in the order in which they ended."""
    files = sorted(folder.glob("results/**/*.jsonl"), key=lambda path: path.stat().st_mtime)
    jobs = []
    for path in files:
        row = json.loads(path.read_text().splitlines()[-1])
        shared = "reference" if path.stem.startswith("reference") else "fetch"
        name = shared if path.parent.name == "datasets" else path.stem
        jobs.append({"job": name, "seconds": row["s"], "cpu_seconds": row["cpu_time"], "peak_mb": row["max_pss"]})
    return jobs


def read_results(experiment: Path) -> dict[str, Any]:
    """Read metrics and counts in the folder of an experiment, and those of its model on held-out molecules."""
    entries = json.loads((experiment / "validation/metrics.json").read_text())["metrics"]
    return {
        "metrics": {
            entry["name"]: {"value": entry["value"], "n": entry["n"], **entry["baselines"]} for entry in entries
        },
        "counts": {path.parent.name: json.loads(path.read_text()) for path in experiment.glob("*/counts.json")},
        "model": json.loads((experiment / "model/model.json").read_text())["metrics"],
    }


def print_usage(name: str, seconds: float, cpu_seconds: float | None, peak_mb: float | None) -> None:
    """Print one line of the table."""
    cpu = f"{cpu_seconds:7.1f} CPU s" if cpu_seconds else " " * 13
    print(f"{name:24} {seconds:7.1f} s {cpu} {peak_mb or 0:6.0f} MB")


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.quick:
            workspace = Workspace(Path(temporary) / "run", copy_checkout(Path(temporary) / "checkout"))
            workspace.folder.mkdir()
            copy_molecules(workspace.folder)
            folder, experiment, installation = workspace.folder, EXPERIMENT, None
            command = workspace.build_snakemake_command(*QUICK_OPTIONS, settings=QUICK)
            usage = run(command, folder, workspace.build_environment())
        else:
            folder, experiment = Path(temporary) / "molvae", "example"
            installation = install(folder)
            usage = run(["make", "run", "CORES=2"], folder, dict(os.environ))
        jobs, results = read_jobs(folder), read_results(folder / "results" / experiment)
    if installation:
        print_usage("install", installation["seconds"], None, None)
    for job in jobs:
        print_usage(*job.values())
    print_usage("make run", usage["seconds"], usage["cpu_seconds"], usage["peak_mb"])
    for name, metric in results["metrics"].items():
        print(name, metric)
    write_result(arguments.json, {"install": installation, "jobs": jobs, "run": usage, **results})


if __name__ == "__main__":
    main()
