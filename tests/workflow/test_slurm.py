"""The workflow on a real SLURM of two nodes, and training that is interrupted there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator

import pytest
from slurm import LONG, MODEL, NODES, UNTRACKED, Cluster, Training, missing, submit
from workspace import SETTINGS, Place, write_molecules

pytestmark = pytest.mark.slurm

SAVED = "returned non-zero exit status 75"  # what `molvae train` says when it stopped with its state saved
RESUMED = "going on from results/example/checkpoints"
# What differs from run to run, and rightly so: times, and pages that show them.
OF_THIS_RUN = {"history.csv", "model.json", "report.html"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    if lacking := missing():
        message = f"no SLURM here ({', '.join(lacking)} not found); on Debian and Ubuntu `make slurm` installs it"
        pytest.fail(message) if "MOLVAE_TEST_SLURM" in os.environ else pytest.skip(message)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def train(cluster, finished, tmp_path_factory) -> Iterator[Callable[..., Training]]:
    """train(*arguments) starts a Training in a copy of the finished run."""
    runs = []

    def start(*arguments: str) -> Training:
        runs.append(Training(finished, tmp_path_factory.mktemp("train") / "run", cluster, *arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


@pytest.fixture(scope="module")
def lost(train, cluster) -> Training:
    """Training whose node was lost. It goes on while the whole workflow runs, and so do the next two."""
    run = train()
    run.first = run.pause()
    cluster.lose_node(run.first["NodeList"], told=True)
    for _ in range(60):
        if cluster.job_of(run.place.folder, "train")["JobState"] == "RUNNING":
            break
        time.sleep(0.5)
    cluster.start_node(run.first["NodeList"])
    return run


@pytest.fixture(scope="module")
def cancelled(train, cluster) -> Training:
    """Training that was cancelled."""
    run = train()
    run.first = run.pause()
    cluster.cancel(run.first["JobId"])
    return run


@pytest.fixture(scope="module")
def out_of_time(train) -> Training:
    """Training that hangs until SLURM ends it for its wall time."""
    run = train("train:runtime=1")
    run.first = run.pause()
    return run


@pytest.fixture(scope="module")
def whole(cluster, lost, cancelled, out_of_time, checkout, tmp_path_factory) -> tuple[Place, list[dict[str, str]]]:
    """The whole workflow through SLURM, and its jobs as SLURM knows them."""
    place = Place(tmp_path_factory.mktemp("whole"), checkout)
    write_molecules(place.folder / "molecules.csv")
    place.shell(*submit(place, settings=SETTINGS | UNTRACKED), **cluster.environment)
    return place, [job for job in cluster.jobs() if job["WorkDir"] == str(place.folder)]


@pytest.fixture(scope="module")
def uninterrupted(finished, tmp_path_factory) -> bytes:
    """The weights of the same training on this machine, in one go."""
    place = Place(tmp_path_factory.mktemp("uninterrupted") / "run", finished.checkout)
    shutil.copytree(finished.folder, place.folder)
    place.snakemake("--set-threads", "train=1", "--", MODEL, settings=LONG)
    return (place.folder / MODEL).read_bytes()


def test_every_result_is_that_of_a_local_run_byte_for_byte(whole, finished):
    place, _ = whole
    folders = ("tokens", "model", "samples", "validation", "latent")
    files = [path for name in folders for path in sorted((place.folder / "results/example" / name).rglob("*.*"))]
    compared = [path for path in files if path.name not in OF_THIS_RUN]
    assert len(compared) >= 17
    local = finished.folder / "results"
    differ = [path.name for path in compared
              if path.read_bytes() != (local / path.relative_to(place.folder / "results")).read_bytes()]  # fmt: skip
    assert not differ
    assert (place.folder / "results/example/report.html").exists()


def test_each_job_asks_slurm_for_what_its_rule_says(whole):
    _, jobs = whole
    found = {job["Comment"].removeprefix("rule_").split("_wildcards_")[0]: job for job in jobs}
    assert set(found) == {"featurize_block", "featurize", "train", "prior", "latent", "sample_block", "sample",
                          "validate_block", "validate"}  # fmt: skip
    train = found["train"]
    asked = (train["MinMemoryNode"], train["TimeLimit"], train["TresPerJob"], train["Requeue"], train["NumCPUs"])
    assert asked == ("8000M", "1-00:00:00", "gres:gpu:1", "1", "1")
    assert found["featurize"]["MinMemoryNode"] == "4000M" and "TresPerJob" not in found["featurize"]


def test_shares_run_at_once_and_on_both_nodes(whole):
    _, jobs = whole
    nodes = set()
    for rule in ("featurize_block", "sample_block", "validate_block"):
        one, other = (job for job in jobs if f"rule_{rule}_" in job["Comment"])
        assert one["StartTime"] < other["EndTime"] and other["StartTime"] < one["EndTime"], rule
        nodes |= {one["NodeList"], other["NodeList"]}
    assert nodes == set(NODES)


def test_training_that_slurm_ends_for_its_wall_time_goes_on_to_the_same_weights(out_of_time, uninterrupted):
    output = out_of_time.finish()
    assert "SLURM status is: 'TIMEOUT'" in output
    assert SAVED in out_of_time.slurm_log(out_of_time.first)
    assert "granted 1 min: training stops after 48 s" in out_of_time.log
    assert RESUMED in out_of_time.log
    assert out_of_time.weights() == uninterrupted


def test_training_that_is_cancelled_saves_and_goes_on_to_the_same_weights(cluster, cancelled, uninterrupted):
    assert "SLURM status is: 'CANCELLED'" in cancelled.finish()
    assert SAVED in cancelled.slurm_log(cancelled.first)
    assert RESUMED in cancelled.log
    again = cluster.job_of(cancelled.place.folder, "train")
    assert again["MinMemoryNode"] == "16000M", "a second attempt is granted more memory"
    assert cancelled.weights() == uninterrupted


def test_training_whose_node_is_lost_goes_on_to_the_same_weights_on_another(cluster, lost, uninterrupted):
    lost.finish()
    again = cluster.job_of(lost.place.folder, "train")
    assert (again["JobId"], again["Restarts"]) == (lost.first["JobId"], "1")
    assert again["NodeList"] != lost.first["NodeList"]
    assert RESUMED in lost.log
    assert lost.weights() == uninterrupted
