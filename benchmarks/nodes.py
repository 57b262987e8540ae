"""Wall time of the stages that scatter, through SLURM on one node and on two, of one core each."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import options, write

from molvae.config import PriorSettings
from molvae.model_io.folder import save_prior
from molvae.runtime.files import sha256

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/workflow"))

from slurm import Cluster, submit
from workspace import Place, copy_of_checkout

STAGES = ("featurize_block", "sample_block", "validate_block")


def settings(quick: bool) -> dict[str, Any]:
    """The default data set, and samples of a model that comes with the package."""
    return {
        "data": {"source": "data/moses-small.csv.gz"},
        "sample": {"n": 200 if quick else 5000},
        "tracking": {"enabled": False},
    }


def prepare(place: Place) -> None:
    """Lay the model into the experiment's folder, as if training had ended in it."""
    model = place.folder / "results/example/model"
    shutil.copytree(place.checkout / "molvae/pretrained/moses", model)
    about = {"settings": PriorSettings().model_dump(), "weights_sha256": sha256(model / "model.safetensors")}
    save_prior(model, None, about)


def measure(place: Place, cluster: Cluster, quick: bool) -> list[dict[str, Any]]:
    """Run each stage's shares; seconds from the first job's start to the last one's end, and of the whole command."""
    rows = []
    for stage in STAGES:
        began = time.monotonic()
        targets = {"featurize_block": "tokens", "sample_block": "samples", "validate_block": "validation"}
        files = [f"results/example/{targets[stage]}/blocks/{share}-of-2.parquet" for share in (1, 2)]
        rules = ("--allowed-rules", *STAGES, "sample")  # the model is there, the tokens it was trained on are not
        command = submit(place, "--notemp", *rules, "--", *files, settings=settings(quick))
        place.shell(*command, **cluster.environment)
        seconds = time.monotonic() - began
        jobs = [job for job in cluster.jobs()
                if job["WorkDir"] == str(place.folder) and f"rule_{stage}_" in job["Comment"]]  # fmt: skip
        times = [datetime.datetime.fromisoformat(job[key]) for job in jobs for key in ("StartTime", "EndTime")]
        rows.append(
            {
                "stage": stage,
                "nodes": len({job["NodeList"] for job in jobs}),
                "first_start_to_last_end_s": (max(times) - min(times)).total_seconds(),
                "job_s": [(datetime.datetime.fromisoformat(job["EndTime"])
                           - datetime.datetime.fromisoformat(job["StartTime"])).total_seconds() for job in jobs],
                "snakemake_s": round(seconds, 1),
                "load_before": os.getloadavg()[0],
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    arguments = options(__doc__).parse_args()
    root = Path(tempfile.mkdtemp(prefix="molvae-slurm-"))
    checkout = copy_of_checkout(root / "checkout")
    rows = []
    for nodes in (1, 2):
        place = Place(root / f"on-{nodes}", checkout)
        place.folder.mkdir()
        prepare(place)
        place.snakemake("--until", "fetch", settings=settings(arguments.quick))
        cluster = Cluster(root / f"slurm-{nodes}", cores=1)
        try:
            cluster.start()
            if nodes == 1:
                subprocess.run(
                    ["scontrol", "update", "nodename=node2", "state=drain", "reason=one"], check=True,
                    env=os.environ | cluster.environment,
                )  # fmt: skip
            rows += measure(place, cluster, arguments.quick)
        finally:
            cluster.stop()
    shutil.rmtree(root)
    for one, two in zip(rows[: len(STAGES)], rows[len(STAGES) :], strict=True):
        ratio = one["first_start_to_last_end_s"] / two["first_start_to_last_end_s"]
        print(f"{one['stage']}: {ratio:.2f} times as fast on two nodes")
    write(arguments.json, {"sizes": settings(arguments.quick), "stages": rows})


if __name__ == "__main__":
    main()
