"""The default experiment from nothing to report on this machine: wall time and peak memory, a stage a line."""

from __future__ import annotations

import json
import subprocess
import sys
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
        name = "fetch" if path.parent.name == "datasets" else path.stem
        found.append({"job": name, "seconds": row["s"], "cpu_seconds": row["cpu_time"], "peak_mb": row["max_pss"]})
    return found


def main() -> None:
    arguments = options(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", temporary, "--workflow-profile", str(ROOT / "profiles/default")]
        whole = run_measured(command + (QUICK if arguments.quick else []), stderr=subprocess.DEVNULL)
        jobs = stages(Path(temporary))
        metrics = json.loads((Path(temporary) / "results/example/validation/metrics.json").read_text())["metrics"]
    for job in jobs:
        print(
            f"{job['job']:24} {job['seconds']:7.1f} s  {job['cpu_seconds']:7.1f} CPU s  {job['peak_mb'] or 0:6.0f} MB"
        )
    print(f"{'whole run':24} {whole['seconds']:7.1f} s  {'':16}{whole['peak_mb']:6.0f} MB")
    figures = {one["name"]: {"value": one["value"], "n": one["n"], **one["baselines"]} for one in metrics}
    write(arguments.json, {"jobs": jobs, "whole": whole, "figures": figures})


if __name__ == "__main__":
    main()
