"""A new user's first minutes: clone the last commit, `make run` on two cores; time and peak memory, a stage a line."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from record import options, run_measured, write

ROOT = Path(__file__).parent.parent
QUICK = ["--config", 'train={"epochs": 1}', 'sample={"n": 1000}', 'validate={"baselines": false}']


def stages(folder: Path) -> list[dict[str, float]]:
    """What Snakemake measured of each job, in the order in which they ended."""
    files = sorted(folder.glob("results/**/*.jsonl"), key=lambda path: path.stat().st_mtime)
    found = []
    for path in files:
        row = json.loads(path.read_text().splitlines()[-1])
        shared = "reference" if path.stem.startswith("reference") else "fetch"
        name = shared if path.parent.name == "datasets" else path.stem
        found.append({"job": name, "seconds": row["s"], "cpu_seconds": row["cpu_time"], "peak_mb": row["max_pss"]})
    return found


def show(name: str, seconds: float, cpu_seconds: float | None, peak_mb: float | None) -> None:
    """One line of the table."""
    cpu = f"{cpu_seconds:7.1f} CPU s" if cpu_seconds else " " * 13
    print(f"{name:24} {seconds:7.1f} s {cpu} {peak_mb or 0:6.0f} MB")


def main() -> None:
    arguments = options(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "molvae"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        install = run_measured(["make", ".venv/.installed"], cwd=clone)
        command = [".venv/bin/snakemake", "--cores", "2", *QUICK] if arguments.quick else ["make", "run", "CORES=2"]
        whole = run_measured(command, cwd=clone, stderr=subprocess.DEVNULL)
        again = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True)
        if "Nothing to be done" not in again.stdout + again.stderr:
            raise SystemExit("the same command again found something to do")
        jobs = stages(clone)
        metrics = json.loads((clone / "results/example/validation/metrics.json").read_text())["metrics"]
        held_out = json.loads((clone / "results/example/model/model.json").read_text())["metrics"]
        books = {path.parent.name: json.loads(path.read_text()) for path in clone.glob("results/example/*/books.json")}
    show("install", install["seconds"], None, None)
    for job in jobs:
        show(*job.values())
    show("make run", whole["seconds"], None, whole["peak_mb"])
    figures = {one["name"]: {"value": one["value"], "n": one["n"], **one["baselines"]} for one in metrics}
    for name, figure in figures.items():
        print(name, figure)
    write(
        arguments.json,
        {"install": install, "jobs": jobs, "run": whole, "figures": figures, "books": books, "model": held_out},
    )


if __name__ == "__main__":
    main()
