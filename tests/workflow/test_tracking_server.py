"""Tracking against real servers: many stages at once, killed under them, and back again."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable

import pytest
from servers import Lossy, Postgres, Server

from molvae import tracking
from molvae.tracking.records import read

FORK = multiprocessing.get_context("fork")  # a new Python would import MLflow for 7 s


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


def at_once(work: Callable[[int], None], number: int) -> list:
    """Processes that do work(0), work(1), …"""
    import mlflow  # noqa: F401  before the fork

    processes = [FORK.Process(target=work, args=(one,)) for one in range(number)]
    for process in processes:
        process.start()
    return processes


def exit_codes(processes: list) -> list[int | None]:
    for process in processes:
        process.join(timeout=60)
    return [process.exitcode for process in processes]


def content(uri: str, project: str) -> dict[str, dict]:
    """All that MLflow has of a project, by the name of its runs, of which each must be there once."""
    client = tracking.connect(uri)
    runs = client.search_runs([client.get_experiment_by_name(project).experiment_id])
    found = {
        run.info.run_name: {
            "status": run.info.status, "end": run.info.end_time, "params": run.data.params, "tags": run.data.tags,
            "points": sorted(
                (key, point.step, point.timestamp, point.value)
                for key in run.data.metrics
                for point in client.get_metric_history(run.info.run_id, key)
            ),
            "files": [file.path for file in client.list_artifacts(run.info.run_id)],
            "datasets": [used.dataset.name for used in run.inputs.dataset_inputs],
            "models": [output.model_id for output in run.outputs.model_outputs],
            "versions": [one.version for one in client.search_model_versions(f"run_id = '{run.info.run_id}'")],
        }
        for run in runs
    }  # fmt: skip
    assert len(found) == len(runs)
    return found


def test_eight_processes_make_the_tables_of_an_empty_database_once(postgres, results, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri)  # empty as yet: this test is the first

    def work(number: int) -> None:
        with tracking.stage(f"stage{number}", experiment_dir=results / "a", params={}) as run:
            run.log({"loss": number})
            run.dataset(name="molecules", digest="1", source="molecules.csv")
        sys.exit(run._warned)

    assert exit_codes(at_once(work, 8)) == [0] * 8
    assert {f"stage{number}" for number in range(8)} | {"a"} == set(content(postgres.uri, "molvae"))


def test_a_server_that_dies_under_eight_stages_and_returns_lacks_nothing(postgres, server, results, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)  # also for list_artifacts, which asks no client (3.17.2)
    monkeypatch.setenv("MOLVAE_TRACKING", json.dumps({"experiment": "eight", "register": "sampler"}))
    busy, down, up = FORK.Semaphore(0), FORK.Event(), FORK.Event()

    def work(number: int) -> None:
        folder, step = results / "ab"[number % 2], 0
        with tracking.stage(f"stage{number}", experiment_dir=folder, params={"number": number}) as run:
            while not down.is_set():
                run._due = 0.0
                run.log({"loss": 1 / (step + 1), "kl": step}, step)
                step += 1
                if step == 3:
                    busy.release()
            for more in range(step, step + 1000):
                run.log({"loss": 1 / (more + 1)}, more)
            (folder / f"file{number}.json").write_text(str(number))
            run.artifact(folder / f"file{number}.json")
            run.dataset(name="molecules", digest="1", source="molecules.csv")
            if number < 2:
                run.model(folder / "model")
            if number >= 4:
                assert up.wait(60)
        sys.exit(not run._warned)

    processes = at_once(work, 8)
    assert all(busy.acquire(timeout=60) for _ in processes)
    server.stop()
    postgres.stop()
    time.sleep(1)
    down.set()
    began = time.monotonic()
    assert exit_codes(processes[:4]) == [0] * 4
    assert time.monotonic() - began < 40
    postgres.start()
    server.start()
    up.set()
    assert exit_codes(processes[4:]) == [0] * 4
    assert tracking.sync(results) == tracking.Summary(mirrored=4, complete=4)
    found = content(server.uri, "eight")
    assert tracking.sync(results) == tracking.Summary(complete=8)
    assert content(server.uri, "eight") == found
    assert [found.pop(parent)["status"] for parent in "ab"] == ["FINISHED"] * 2
    records = [read(path) for path in results.rglob("tracking/stage*.json")]
    assert sorted(found) == sorted(record["stage"] for record in records)
    for record in records:
        run = found[record["stage"]]
        points = [(one["key"], one["step"], one["timestamp"], one["value"]) for one in record["metrics"]]
        assert run["points"] == sorted(points) and len(points) > 1000
        assert (run["status"], run["end"], run["params"]) == ("FINISHED", record["end"], record["params"])
        number = record["params"]["number"]
        assert f"file{number}.json" in run["files"] and run["datasets"] == ["molecules"]
        (stored,) = (server.folder / "files").rglob(f"file{number}.json")
        assert stored.read_text() == number
        assert len(run["models"]) == len(run["versions"]) == (int(number) < 2)
    assert len(list((server.folder / "files").rglob("MLmodel"))) == 2


def test_an_answer_that_is_lost_makes_nothing_twice(server, results, monkeypatch, capsys):
    lossy = Lossy(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lossy.uri)
    monkeypatch.setenv("MOLVAE_TRACKING", json.dumps({"experiment": "lossy", "register": "lossy"}))
    with tracking.stage("train", experiment_dir=results / "a", params={"epochs": 9}) as run:
        run.log({"loss": 1.0})
        run.model(results / "a" / "model")
    for _ in range(8):
        if tracking.sync(results).complete:
            break
    assert tracking.sync(results) == tracking.Summary(complete=1)
    found = content(server.uri, "lossy")
    assert set(found) == {"a", "train"} and found["train"]["status"] == "FINISHED"
    assert len(found["train"]["points"]) == len(found["train"]["models"]) == len(found["train"]["versions"]) == 1
    client = tracking.connect(server.uri)
    assert len(client.search_logged_models([client.get_experiment_by_name("lossy").experiment_id])) == 1
    assert lossy.lost >= {"runs/create", "logged-models", "runs/outputs", "model-versions/create"}
    assert capsys.readouterr().out == ""  # where samples may go
    lossy.shutdown()
    lossy.server_close()
