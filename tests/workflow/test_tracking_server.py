"""Tracking on real servers: many stages at once, while the servers are killed and started again."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable

import pytest
from servers import LossyProxy, Postgres, Server

from molvae import tracking
from molvae.tracking.records import read_record

FORK = multiprocessing.get_context("fork")  # a new Python would take 7 s to import MLflow


@pytest.fixture(scope="module")
def postgres():
    postgres = Postgres()
    yield postgres
    postgres.remove()


@pytest.fixture(scope="module")
def server(postgres, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"), postgres.uri)
    yield server
    server.stop()


@pytest.fixture
def results(tmp_path, monkeypatch):
    """results/ with a model to upload."""
    for name in ("MOLVAE_TRACKING", "MLFLOW_TRACKING_URI", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for experiment in ("a", "b"):
        (tmp_path / "results" / experiment / "model").mkdir(parents=True)
        (tmp_path / "results" / experiment / "model" / "model.json").write_text("{}")
    return tmp_path / "results"


def start_processes(work: Callable[[int], None], number: int) -> list:
    """Start processes that call work(0), work(1), …"""
    import mlflow  # noqa: F401  before the fork

    processes = [FORK.Process(target=work, args=(i,)) for i in range(number)]
    for process in processes:
        process.start()
    return processes


def wait_for_exit_codes(processes: list) -> list[int | None]:
    """Wait until processes have ended, and return their exit codes."""
    for process in processes:
        process.join(timeout=60)
    return [process.exitcode for process in processes]


def fetch_runs(uri: str, project: str) -> dict[str, dict]:
    """Fetch all that MLflow has of a project, by the name of its runs; each name must be there once."""
    client = tracking.connect_to_mlflow(uri)
    runs = client.search_runs([client.get_experiment_by_name(project).experiment_id])
    contents = {
        run.info.run_name: {
            "status": run.info.status,
            "end": run.info.end_time,
            "params": run.data.params,
            "tags": run.data.tags,
            "points": sorted(
                (key, point.step, point.timestamp, point.value)
                for key in run.data.metrics
                for point in client.get_metric_history(run.info.run_id, key)
            ),
            "files": [file.path for file in client.list_artifacts(run.info.run_id)],
            "datasets": [dataset_input.dataset.name for dataset_input in run.inputs.dataset_inputs],
            "models": [output.model_id for output in run.outputs.model_outputs],
            "versions": [version.version for version in client.search_model_versions(f"run_id = '{run.info.run_id}'")],
        }
        for run in runs
    }
    assert len(contents) == len(runs)
    return contents


def test_eight_processes_create_the_tables_of_an_empty_database_once(postgres, results, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri)  # empty as yet: this test is the first

    def work(number: int) -> None:
        with tracking.track_stage(f"stage{number}", experiment_dir=results / "a", params={}) as run:
            run.log_metrics({"loss": number})
            run.log_dataset(name="molecules", digest="1", source="molecules.csv")
        sys.exit(run._warned)

    assert wait_for_exit_codes(start_processes(work, 8)) == [0] * 8
    assert {f"stage{number}" for number in range(8)} | {"a"} == set(fetch_runs(postgres.uri, "molvae"))


def test_a_server_that_is_killed_during_eight_stages_and_started_again_lacks_nothing(
    postgres, server, results, monkeypatch
):
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", server.uri
    )  # also for list_artifacts, which does not ask the client (3.17.2)
    monkeypatch.setenv("MOLVAE_TRACKING", json.dumps({"experiment": "eight", "register": "sampler"}))
    ready, down, up = FORK.Semaphore(0), FORK.Event(), FORK.Event()

    def work(number: int) -> None:
        folder, step = results / "ab"[number % 2], 0
        with tracking.track_stage(f"stage{number}", experiment_dir=folder, params={"number": number}) as run:
            while not down.is_set():
                run._due = 0.0
                run.log_metrics({"loss": 1 / (step + 1), "kl": step}, step)
                step += 1
                if step == 3:
                    ready.release()
            for later in range(step, step + 1000):
                run.log_metrics({"loss": 1 / (later + 1)}, later)
            (folder / f"file{number}.json").write_text(str(number))
            run.log_artifact(folder / f"file{number}.json")
            run.log_dataset(name="molecules", digest="1", source="molecules.csv")
            if number < 2:
                run.log_model(folder / "model")
            if number >= 4:
                assert up.wait(60)
        sys.exit(not run._warned)

    processes = start_processes(work, 8)
    assert all(ready.acquire(timeout=60) for _ in processes)
    server.stop()
    postgres.stop()
    time.sleep(1)
    down.set()
    start = time.monotonic()
    assert wait_for_exit_codes(processes[:4]) == [0] * 4
    assert time.monotonic() - start < 40
    postgres.start()
    server.start()
    up.set()
    assert wait_for_exit_codes(processes[4:]) == [0] * 4
    assert tracking.sync_records(results) == tracking.SyncSummary(sent=4, complete=4)
    runs = fetch_runs(server.uri, "eight")
    assert tracking.sync_records(results) == tracking.SyncSummary(complete=8)
    assert fetch_runs(server.uri, "eight") == runs
    assert [runs.pop(parent)["status"] for parent in "ab"] == ["FINISHED"] * 2
    records = [read_record(path) for path in results.rglob("tracking/stage*.json")]
    assert sorted(runs) == sorted(record["stage"] for record in records)
    for record in records:
        run = runs[record["stage"]]
        points = [(point["key"], point["step"], point["timestamp"], point["value"]) for point in record["metrics"]]
        assert run["points"] == sorted(points) and len(points) > 1000
        assert (run["status"], run["end"], run["params"]) == ("FINISHED", record["end"], record["params"])
        number = record["params"]["number"]
        assert f"file{number}.json" in run["files"] and run["datasets"] == ["molecules"]
        (stored,) = (server.folder / "files").rglob(f"file{number}.json")
        assert stored.read_text() == number
        assert len(run["models"]) == len(run["versions"]) == (int(number) < 2)
    assert len(list((server.folder / "files").rglob("MLmodel"))) == 2


def test_a_lost_answer_of_the_tracking_server_creates_nothing_twice(server, results, monkeypatch, capsys):
    proxy = LossyProxy(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    monkeypatch.setenv("MOLVAE_TRACKING", json.dumps({"experiment": "lossy", "register": "lossy"}))
    with tracking.track_stage("train", experiment_dir=results / "a", params={"epochs": 9}) as run:
        run.log_metrics({"loss": 1.0})
        run.log_model(results / "a" / "model")
    for _ in range(8):
        if tracking.sync_records(results).complete:
            break
    assert tracking.sync_records(results) == tracking.SyncSummary(complete=1)
    runs = fetch_runs(server.uri, "lossy")
    assert set(runs) == {"a", "train"} and runs["train"]["status"] == "FINISHED"
    assert len(runs["train"]["points"]) == len(runs["train"]["models"]) == len(runs["train"]["versions"]) == 1
    client = tracking.connect_to_mlflow(server.uri)
    assert len(client.search_logged_models([client.get_experiment_by_name("lossy").experiment_id])) == 1
    assert proxy.dropped >= {"runs/create", "logged-models", "runs/outputs", "model-versions/create"}
    assert capsys.readouterr().out == ""  # samples may go to stdout
    proxy.shutdown()
    proxy.server_close()


def test_server_error_for_a_deleted_experiment_has_the_command_that_restores_it(server, results, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MOLVAE_TRACKING", json.dumps({"experiment": "deleted"}))
    client = tracking.connect_to_mlflow(server.uri)
    experiment_id = client.create_experiment("deleted")
    client.delete_experiment(experiment_id)
    with tracking.track_stage("train", experiment_dir=results / "a", params={}):
        pass
    command = f"MLFLOW_TRACKING_URI={server.uri} mlflow experiments restore --experiment-id {experiment_id}"
    assert f"`{command}`, or set another tracking.experiment" in caplog.text
    client.restore_experiment(experiment_id)
    assert tracking.sync_records(results) == tracking.SyncSummary(sent=1)


def test_mlflow_server_on_a_moved_store_serves_the_artifacts_of_old_and_new_runs(results, tmp_path, monkeypatch):
    def track(folder, stage: str) -> None:
        (folder / "a" / f"{stage}.txt").write_text(stage)
        monkeypatch.setenv("MOLVAE_TRACKING", json.dumps({"uri": f"{folder}/mlflow.db"}))
        with tracking.track_stage(stage, experiment_dir=folder / "a", params={}) as run:
            run.log_artifact(folder / "a" / f"{stage}.txt")

    track(results, "train")
    moved = shutil.move(results, tmp_path / "moved #%20")
    track(moved, "sample")
    server = Server(tmp_path, f"sqlite:///{moved}/mlflow.db")
    try:
        client = tracking.connect_to_mlflow(server.uri)
        runs = client.search_runs([client.get_experiment_by_name("molvae").experiment_id])
        for run in runs:
            if (stage := run.info.run_name) != "a":
                address = f"{server.uri}/get-artifact?run_uuid={run.info.run_id}&path={stage}.txt"
                with urllib.request.urlopen(address, timeout=30) as answer:
                    assert answer.read().decode() == stage
    finally:
        server.stop()
    assert len(runs) == 3 and not results.exists()
