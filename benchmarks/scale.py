"""What ten million and a billion molecules would take: rows/s, overhead a job, memory, bytes a row, measured on SLURM.

All of MOSES is featurised through the SLURM of the tests, two nodes of one core each, and samples of `pretrained:moses`
are drawn and validated. A job's overhead is what SLURM saw of it less what its command took: Snakemake and Python that
start. The cost model then says for how many rows a shard must be for the overhead to stay below 5 %, and what is left
for one process: the merge.
"""

from __future__ import annotations

import datetime
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from cluster import add_pretrained_model, require_slurm
from example import write_example
from peer import DOWNLOADS
from record import describe_circumstances, make_parser, write_result
from slurm import Cluster, build_submit_command
from workspace import Workspace, copy_checkout

from molvae.runtime.files import read_json

MAX_OVERHEAD = 0.05
SIZES = (10_000_000, 1_000_000_000)
SHARDS, QUICK_SHARDS = {"rows": 8, "samples": 4}, {"rows": 1, "samples": 1}
FOLDERS = {"featurize": "tokens", "sample": "samples", "validate": "validation"}  # by stage


def make_settings(quick: bool) -> dict[str, Any]:
    """Make the settings: all of MOSES, or a few of its molecules, and samples of a pretrained model."""
    return {
        "data": {"source": "train-molecules.smi" if quick else "moses"},
        "sample": {"n": 400 if quick else 10_000},
        "tracking": {"enabled": False},
    }


def run(workspace: Workspace, cluster: Cluster, quick: bool, *targets: str, rules: tuple[str, ...]) -> None:
    """Run the workflow on the cluster up to some files, with these rules only."""
    shards = QUICK_SHARDS if quick else SHARDS
    scatter = ("--set-scatter", *(f"{name}={number}" for name, number in shards.items()))
    options = ("--notemp", "--allowed-rules", *rules, "--", *targets)
    command = build_submit_command(workspace, *scatter, *options, settings=make_settings(quick))
    workspace.run_command(*command, timeout=7200, **cluster.environment)


def list_jobs(workspace: Workspace, cluster: Cluster, rule: str) -> list[dict[str, float]]:
    """List of each job of a rule the seconds that SLURM saw, those of its command, and its peak memory."""
    wall_seconds = []
    for job in cluster.list_jobs():
        if job["WorkDir"] != str(workspace.folder) or not job["Comment"].startswith(f"rule_{rule}_wildcards"):
            continue
        began, ended = (datetime.datetime.fromisoformat(job[key]) for key in ("StartTime", "EndTime"))
        wall_seconds.append((ended - began).total_seconds())
    files = [
        file for file in (workspace.folder / "results/example/benchmarks").iterdir() if file.name.split(".")[0] == rule
    ]
    rows = [json.loads(file.read_text().splitlines()[-1]) for file in files]
    assert len(rows) == len(wall_seconds), (rule, files, wall_seconds)
    # the order of jobs and files need not be the same; sums and extremes are all that is used
    return [
        {"wall_s": wall, "command_s": row["s"], "peak_mb": row["max_rss"]}
        for wall, row in zip(wall_seconds, rows, strict=True)
    ]


def measure_stage(workspace: Workspace, cluster: Cluster, stage: str, rows: int) -> dict[str, Any]:
    """Measure the jobs of a stage's shards."""
    jobs = list_jobs(workspace, cluster, f"{stage}_shard")
    wall, command = (sum(job[key] for job in jobs) for key in ("wall_s", "command_s"))
    shards = list((workspace.folder / "results/example" / FOLDERS[stage] / "shards").glob("*.parquet"))
    return {
        "rows": rows,
        "shards": len(jobs),
        "rows_per_s_and_core": rows / command,
        "overhead_s_a_job": (wall - command) / len(jobs),
        "peak_mb": [min(job["peak_mb"] for job in jobs), max(job["peak_mb"] for job in jobs)],
        "bytes_a_row": sum(shard.stat().st_size for shard in shards) / rows,
    }


def measure_merge(workspace: Workspace, cluster: Cluster, rows: int) -> dict[str, Any]:
    """Measure the one job that merges the shards of `featurize`."""
    (job,) = list_jobs(workspace, cluster, "featurize")[:1]
    size = sum(
        file.stat().st_size for file in (workspace.folder / "results/example/tokens").iterdir() if file.is_file()
    )
    return {"rows_per_s": rows / job["command_s"], "peak_mb": job["peak_mb"], "bytes_a_row": size / rows}


def compute_cost(stage: dict[str, Any], rows: int) -> dict[str, float]:
    """Compute core hours, the smallest shard with an overhead below 5 %, how many there are of them, and their size."""
    shard_rows = stage["overhead_s_a_job"] * (1 / MAX_OVERHEAD - 1) * stage["rows_per_s_and_core"]
    return {
        "core_hours": rows / stage["rows_per_s_and_core"] / 3600,
        "smallest_shard_rows": float(np.ceil(shard_rows)),
        "most_shards": float(max(1, rows // shard_rows)),
        "shards_gb": rows * stage["bytes_a_row"] / 1e9,
    }


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    require_slurm()
    quick = arguments.quick
    n_shards = (QUICK_SHARDS if quick else SHARDS)["samples"]
    root = Path(tempfile.mkdtemp(prefix="molvae-scale-"))
    workspace = Workspace(root / "run", copy_checkout(root / "checkout"))
    workspace.folder.mkdir()
    if quick:
        write_example(1000, workspace.folder)
    add_pretrained_model(workspace)
    if DOWNLOADS.exists():
        shutil.copytree(DOWNLOADS, workspace.folder / "results/datasets/downloads")
    workspace.run_snakemake("--until", "fetch", settings=make_settings(quick))
    (dataset,) = (workspace.folder / "results/datasets").glob("*.json")
    rows, n = read_json(dataset)["rows_in"], make_settings(quick)["sample"]["n"]
    cluster = Cluster(root / "slurm", cores=1)
    names = [f"{number}-of-{n_shards}.parquet" for number in range(1, n_shards + 1)]
    try:
        cluster.start()
        samples = [f"results/example/samples/shards/{name}" for name in names]
        run(workspace, cluster, quick, *samples, rules=("sample_shard",))
        validations = [f"results/example/validation/shards/{name}" for name in names]
        run(workspace, cluster, quick, *validations, rules=("sample_shard", "sample", "validate_shard"))
        run(
            workspace,
            cluster,
            quick,
            "results/example/tokens/tokens.safetensors",
            rules=("featurize_shard", "featurize"),
        )
        stages = {stage: measure_stage(workspace, cluster, stage, n) for stage in ("sample", "validate")}
        stages["featurize"] = measure_stage(workspace, cluster, "featurize", rows)
        merge = measure_merge(workspace, cluster, rows)
    finally:
        cluster.stop()
    model = {}
    for size in SIZES:
        costs = {name: compute_cost(stage, size) for name, stage in stages.items()}
        merge_cost = {"hours": size / merge["rows_per_s"] / 3600, "gb": size * merge["bytes_a_row"] / 1e9}
        model[f"{size:.0e}"] = {**costs, "merge": merge_cost}
    result = {"stages": stages, "merge": merge, "model": model}
    print(json.dumps({**result, "machine": describe_circumstances()["machine"]}, indent=1))
    write_result(arguments.json, {"sizes": make_settings(quick), **result})
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
