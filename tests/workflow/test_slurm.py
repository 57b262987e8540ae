"""The workflow on a real SLURM of two nodes, and interrupted training on it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator

import pytest
from slurm import (
    LONG_TRAINING,
    MODEL,
    NODES,
    UNTRACKED,
    Cluster,
    Training,
    build_submit_command,
    list_missing_programs,
)
from workspace import EXPERIMENT, SETTINGS, Workspace, copy_molecules

pytestmark = pytest.mark.slurm

SAVED = "returned non-zero exit status 75"  # of `molvae train` when it stopped with its state saved
RESUMED = f"resuming from results/{EXPERIMENT}/checkpoints"
FILES_WITH_TIMES = {"history.csv", "model.json", "report.html"}  # differ from run to run


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    if missing := list_missing_programs():
        message = (
            f"SLURM is not installed ({', '.join(missing)} not found); on Debian and Ubuntu `make slurm` installs it"
        )
        pytest.fail(message) if "MOLVAE_TEST_SLURM" in os.environ else pytest.skip(message)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def start_training(cluster, finished_run, tmp_path_factory) -> Iterator[Callable[..., Training]]:
    """A function that starts a Training in a copy of the finished run, with resources of the rule as arguments."""
    runs = []

    def start(*resources: str) -> Training:
        runs.append(Training(finished_run, tmp_path_factory.mktemp("train") / "run", cluster, *resources))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


@pytest.fixture(scope="module")
def training_on_lost_node(start_training, cluster) -> Training:
    """Training whose node failed. It continues while the whole workflow runs, and so do the next two."""
    run = start_training()
    run.first_job = run.pause()
    cluster.kill_node(run.first_job["NodeList"], is_reported=True)
    for _ in range(60):
        if cluster.find_latest_job(run.workspace.folder, "train")["JobState"] == "RUNNING":
            break
        time.sleep(0.5)
    cluster.start_node(run.first_job["NodeList"])
    return run


@pytest.fixture(scope="module")
def cancelled_training(start_training, cluster) -> Training:
    """Training that was cancelled."""
    run = start_training()
    run.first_job = run.pause()
    cluster.cancel(run.first_job["JobId"])
    return run


@pytest.fixture(scope="module")
def training_out_of_time(start_training) -> Training:
    """Training that hangs until SLURM ends it at its wall time."""
    run = start_training("train:runtime=1")
    run.first_job = run.pause()
    return run


@pytest.fixture(scope="module")
def slurm_run(
    cluster, training_on_lost_node, cancelled_training, training_out_of_time, checkout, tmp_path_factory
) -> tuple[Workspace, list[dict[str, str]]]:
    """The whole workflow through SLURM, and its jobs as SLURM knows them."""
    workspace = Workspace(tmp_path_factory.mktemp("slurm_run"), checkout)
    copy_molecules(workspace.folder)
    command = build_submit_command(workspace, settings=SETTINGS | UNTRACKED)
    workspace.run_command(*command, **cluster.environment)
    return workspace, [job for job in cluster.list_jobs() if job["WorkDir"] == str(workspace.folder)]


@pytest.fixture(scope="module")
def uninterrupted_weights(finished_run, tmp_path_factory) -> bytes:
    """The weights of the same training on this machine without an interruption."""
    workspace = Workspace(tmp_path_factory.mktemp("uninterrupted") / "run", finished_run.checkout)
    shutil.copytree(finished_run.folder, workspace.folder)
    workspace.run_snakemake("--set-threads", "train=1", "--", MODEL, settings=LONG_TRAINING)
    return (workspace.folder / MODEL).read_bytes()


def test_every_result_of_a_slurm_run_is_that_of_a_local_run_byte_for_byte(slurm_run, finished_run):
    workspace, _ = slurm_run
    folders = ("tokens", "model", "samples", "validation", "latent")
    files = [path for name in folders for path in sorted((workspace.experiment / name).rglob("*.*"))]
    compared = [path for path in files if path.name not in FILES_WITH_TIMES]
    assert len(compared) >= 17
    local = {path: finished_run.folder / path.relative_to(workspace.folder) for path in compared}
    assert not [path.name for path in compared if path.read_bytes() != local[path].read_bytes()]
    assert (workspace.experiment / "report.html").exists()


def test_each_slurm_job_requests_the_resources_of_its_rule(slurm_run):
    _, jobs = slurm_run
    job_of_rule = {job["Comment"].removeprefix("rule_").split("_wildcards_")[0]: job for job in jobs}
    assert set(job_of_rule) == {
        "featurize_shard",
        "featurize",
        "train",
        "prior",
        "latent",
        "sample_shard",
        "sample",
        "validate_shard",
        "validate",
    }
    train, featurize = job_of_rule["train"], job_of_rule["featurize"]
    requested = (train["MinMemoryNode"], train["TimeLimit"], train["TresPerJob"], train["Requeue"], train["NumCPUs"])
    assert requested == ("8000M", "1-00:00:00", "gres:gpu:1", "1", "1")
    assert featurize["MinMemoryNode"] == "4000M" and "TresPerJob" not in featurize


def test_shards_of_a_stage_run_at_once_and_on_both_nodes(slurm_run):
    _, jobs = slurm_run
    nodes = set()
    for rule in ("featurize_shard", "sample_shard", "validate_shard"):
        first, second = (job for job in jobs if f"rule_{rule}_" in job["Comment"])
        assert first["StartTime"] < second["EndTime"] and second["StartTime"] < first["EndTime"], rule
        nodes |= {first["NodeList"], second["NodeList"]}
    assert nodes == set(NODES)


def test_training_that_slurm_ends_at_its_wall_time_resumes_to_the_same_weights(
    training_out_of_time, uninterrupted_weights
):
    output = training_out_of_time.finish()
    assert "SLURM status is: 'TIMEOUT'" in output
    assert SAVED in training_out_of_time.read_slurm_log(training_out_of_time.first_job)
    assert "granted 1 min: training stops after 48 s" in training_out_of_time.log
    assert RESUMED in training_out_of_time.log
    assert training_out_of_time.read_weights() == uninterrupted_weights


def test_training_that_is_cancelled_saves_its_state_and_resumes_to_the_same_weights(
    cluster, cancelled_training, uninterrupted_weights
):
    assert "SLURM status is: 'CANCELLED'" in cancelled_training.finish()
    assert SAVED in cancelled_training.read_slurm_log(cancelled_training.first_job)
    assert RESUMED in cancelled_training.log
    second_job = cluster.find_latest_job(cancelled_training.workspace.folder, "train")
    assert second_job["MinMemoryNode"] == "16000M", "a second attempt is granted more memory"
    assert cancelled_training.read_weights() == uninterrupted_weights


def test_training_whose_node_fails_resumes_on_another_node_to_the_same_weights(
    cluster, training_on_lost_node, uninterrupted_weights
):
    run = training_on_lost_node
    run.finish()
    last_job = cluster.find_latest_job(run.workspace.folder, "train")
    assert (last_job["JobId"], last_job["Restarts"]) == (run.first_job["JobId"], "1")
    assert last_job["NodeList"] != run.first_job["NodeList"]
    assert RESUMED in run.log
    assert run.read_weights() == uninterrupted_weights
