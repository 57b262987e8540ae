"""What ten million and a billion molecules would take: rows/s, overhead a job, memory, bytes a row, measured on SLURM.

All of MOSES is featurised through the SLURM of the tests, two nodes of one core each, and samples of `pretrained:moses`
are drawn and validated. A job's overhead is what SLURM saw of it less what its command took: Snakemake and Python that
start. The cost model then says for how many rows a share must be for the overhead to stay below 5 %, and what is left
for one process: the gathering.
"""

from __future__ import annotations

import datetime
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from nodes import prepare
from peer import DOWNLOADS
from record import circumstances, options, write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/workflow"))

from slurm import Cluster, submit
from workspace import Place, copy_of_checkout

from molvae.runtime.files import read_json

MOST_OVERHEAD = 0.05
SIZES = (10_000_000, 1_000_000_000)
SHARES = {"rows": 8, "samples": 4}
BLOCKS = {"featurize": "tokens", "sample": "samples", "validate": "validation"}  # stage: folder of its shares


def settings(quick: bool) -> dict[str, Any]:
    return {
        "data": {"source": "data/moses-small.csv.gz" if quick else "moses"},
        "sample": {"n": 400 if quick else 10_000},
        "tracking": {"enabled": False},
    }


def run(place: Place, cluster: Cluster, quick: bool, *targets: str, rules: tuple[str, ...]) -> None:
    scatter = ("--set-scatter", *(f"{name}={number}" for name, number in SHARES.items()))
    command = submit(place, *scatter, "--notemp", "--allowed-rules", *rules, "--", *targets, settings=settings(quick))
    place.shell(*command, timeout=7200, **cluster.environment)


def jobs_of(place: Place, cluster: Cluster, rule: str) -> list[dict[str, float]]:
    """Of each job of a rule: seconds that SLURM saw, those of its command, and its peak memory."""
    found = []
    for job in cluster.jobs():
        if job["WorkDir"] != str(place.folder) or not job["Comment"].startswith(f"rule_{rule}_wildcards"):
            continue
        began, ended = (datetime.datetime.fromisoformat(job[key]) for key in ("StartTime", "EndTime"))
        found.append({"wall_s": (ended - began).total_seconds()})
    files = [
        file for file in (place.folder / "results/example/benchmarks").iterdir() if file.name.split(".")[0] == rule
    ]
    rows = [json.loads(file.read_text().splitlines()[-1]) for file in files]
    assert len(rows) == len(found), (rule, files, found)
    # the order of jobs and files need not be the same; sums and extremes are all that is used
    return [{**job, "command_s": row["s"], "peak_mb": row["max_rss"]} for job, row in zip(found, rows, strict=True)]


def stage_figures(place: Place, cluster: Cluster, stage: str, rows: int) -> dict[str, Any]:
    jobs = jobs_of(place, cluster, f"{stage}_block")
    wall, command = (sum(job[key] for job in jobs) for key in ("wall_s", "command_s"))
    blocks = list((place.folder / "results/example" / BLOCKS[stage] / "blocks").glob("*.parquet"))
    return {
        "rows": rows,
        "shares": len(jobs),
        "rows_per_s_and_core": rows / command,
        "overhead_s_a_job": (wall - command) / len(jobs),
        "peak_mb": [min(job["peak_mb"] for job in jobs), max(job["peak_mb"] for job in jobs)],
        "bytes_a_row": sum(block.stat().st_size for block in blocks) / rows,
    }


def gather_figures(place: Place, cluster: Cluster, rows: int) -> dict[str, Any]:
    """The one job that puts the shares of `featurize` together."""
    (job,) = jobs_of(place, cluster, "featurize")[:1]
    size = sum(file.stat().st_size for file in (place.folder / "results/example/tokens").iterdir() if file.is_file())
    return {"rows_per_s": rows / job["command_s"], "peak_mb": job["peak_mb"], "bytes_a_row": size / rows}


def cost(stage: dict[str, Any], rows: int) -> dict[str, float]:
    """Core hours, the smallest share with an overhead below 5 %, how many there are of them, and their gigabytes."""
    share = stage["overhead_s_a_job"] * (1 / MOST_OVERHEAD - 1) * stage["rows_per_s_and_core"]
    return {
        "core_hours": rows / stage["rows_per_s_and_core"] / 3600,
        "smallest_share_rows": float(np.ceil(share)),
        "most_shares": float(max(1, rows // share)),
        "shares_gb": rows * stage["bytes_a_row"] / 1e9,
    }


def main() -> None:
    arguments = options(__doc__).parse_args()
    quick = arguments.quick
    root = Path(tempfile.mkdtemp(prefix="molvae-scale-"))
    place = Place(root / "run", copy_of_checkout(root / "checkout"))
    place.folder.mkdir()
    prepare(place)
    if DOWNLOADS.exists():
        shutil.copytree(DOWNLOADS, place.folder / "results/datasets/downloads")
    place.snakemake("--until", "fetch", settings=settings(quick))
    (dataset,) = (place.folder / "results/datasets").glob("*.json")
    rows, n = read_json(dataset)["rows_in"], settings(quick)["sample"]["n"]
    cluster = Cluster(root / "slurm", cores=1)
    try:
        cluster.start()
        shares = [f"results/example/samples/blocks/{k}-of-{SHARES['samples']}.parquet" for k in range(1, 5)]
        run(place, cluster, quick, *shares, rules=("sample_block",))
        shares = [f"results/example/validation/blocks/{k}-of-{SHARES['samples']}.parquet" for k in range(1, 5)]
        run(place, cluster, quick, *shares, rules=("sample_block", "sample", "validate_block"))
        run(place, cluster, quick, "results/example/tokens/tokens.safetensors", rules=("featurize_block", "featurize"))
        stages = {stage: stage_figures(place, cluster, stage, n) for stage in ("sample", "validate")}
        stages["featurize"] = stage_figures(place, cluster, "featurize", rows)
        gathering = gather_figures(place, cluster, rows)
    finally:
        cluster.stop()
    model = {}
    for size in SIZES:
        of_one = {"hours": size / gathering["rows_per_s"] / 3600, "gb": size * gathering["bytes_a_row"] / 1e9}
        model[f"{size:.0e}"] = {**{name: cost(figures, size) for name, figures in stages.items()}, "gathering": of_one}
    found = {"stages": stages, "gathering": gathering, "model": model}
    print(json.dumps({**found, "machine": circumstances()["machine"]}, indent=1))
    write(arguments.json, {"sizes": settings(quick), **found})
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
