"""Wall time of the stages that scatter, through SLURM on one node and on two, of one core each."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster import add_pretrained_model, require_slurm
from example import write_example
from record import make_parser, write_result
from slurm import Cluster, build_submit_command
from workspace import Workspace, copy_checkout

FOLDERS = {"featurize_shard": "tokens", "sample_shard": "samples", "validate_shard": "validation"}  # by stage


def make_settings(quick: bool) -> dict[str, Any]:
    """Make the settings: the default data set, or a few molecules of it, and samples of a pretrained model."""
    return {
        "data": {"source": "train-molecules.smi" if quick else "data/moses-small.csv.gz"},
        "sample": {"n": 200 if quick else 5000},
        "tracking": {"enabled": False},
    }


def measure(workspace: Workspace, cluster: Cluster, stages: list[str], quick: bool) -> list[dict[str, Any]]:
    """Run each stage's shards; seconds from the first job's start to the last one's end, and of the whole command."""
    rows = []
    for stage in stages:
        began = time.monotonic()
        files = [f"results/example/{FOLDERS[stage]}/shards/{number}-of-2.parquet" for number in (1, 2)]
        rules = ("--allowed-rules", *FOLDERS, "sample")  # the model is there, the tokens it was trained on are not
        command = build_submit_command(workspace, "--notemp", *rules, "--", *files, settings=make_settings(quick))
        workspace.run_command(*command, **cluster.environment)
        seconds = time.monotonic() - began
        folder, rule = str(workspace.folder), f"rule_{stage}_"
        jobs = [job for job in cluster.list_jobs() if job["WorkDir"] == folder and rule in job["Comment"]]
        starts, ends = ([datetime.datetime.fromisoformat(job[key]) for job in jobs] for key in ("StartTime", "EndTime"))
        rows.append(
            {
                "stage": stage,
                "nodes": len({job["NodeList"] for job in jobs}),
                "first_start_to_last_end_s": (max(ends) - min(starts)).total_seconds(),
                "job_s": [(end - start).total_seconds() for start, end in zip(starts, ends, strict=True)],
                "snakemake_s": round(seconds, 1),
                "load_before": os.getloadavg()[0],
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    require_slurm()
    quick = arguments.quick
    stages = ["sample_shard"] if quick else list(FOLDERS)
    root = Path(tempfile.mkdtemp(prefix="molvae-slurm-"))
    checkout = copy_checkout(root / "checkout")
    rows = []
    for nodes in (1, 2):
        workspace = Workspace(root / f"on-{nodes}", checkout)
        workspace.folder.mkdir()
        if quick:
            write_example(1000, workspace.folder)
        add_pretrained_model(workspace)
        workspace.run_snakemake("--until", "fetch", settings=make_settings(quick))
        cluster = Cluster(root / f"slurm-{nodes}", cores=1)
        try:
            cluster.start()
            if nodes == 1:
                drain = ["scontrol", "update", "nodename=node2", "state=drain", "reason=one"]
                subprocess.run(drain, check=True, env=os.environ | cluster.environment)
            rows += measure(workspace, cluster, stages, quick)
        finally:
            cluster.stop()
    shutil.rmtree(root)
    for one_node, two_nodes in zip(rows[: len(stages)], rows[len(stages) :], strict=True):
        ratio = one_node["first_start_to_last_end_s"] / two_nodes["first_start_to_last_end_s"]
        print(f"{one_node['stage']}: {ratio:.2f} times as fast on two nodes")
    write_result(arguments.json, {"sizes": make_settings(quick), "stages": rows})


if __name__ == "__main__":
    main()
