"""Tracking against a real MLflow server: killed under a running stage, back for sync."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from molvae import tracking

pytestmark = pytest.mark.slow


def start(folder, port: int) -> subprocess.Popen:
    """Start a server in a process group of its own and wait until it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "server.log", "ab") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            return server
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    stop(server)
    pytest.fail(f"no answer from the server in 60 s:\n{(folder / 'server.log').read_text()[-2000:]}")


def stop(server: subprocess.Popen) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_a_server_that_dies_under_a_stage_gets_everything_later(tmp_path, monkeypatch, caplog, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, uri = tmp_path / "results" / "example", f"http://127.0.0.1:{port}"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.json").write_text("{}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # also for list_artifacts, which asks no client (MLflow 3.17.2)
    monkeypatch.setenv("MOLVAE_TRACKING", json.dumps({"uri": "sqlite:///other.db", "register": "sampler"}))
    server = start(tmp_path, port)
    try:
        with tracking.stage("train", experiment_dir=folder, params={"epochs": 9}) as run:
            run.log({"loss": 1.0}, step=0)
            stop(server)
            for step in range(1, 1500):
                run.log({"loss": 1 / (step + 1)}, step=step)
            time.sleep(1.1)
            run.artifact(folder / "model" / "model.json")
            run.dataset(name="d", digest="1", source="d.csv")
            run.model(folder / "model")
        assert len(caplog.records) == 1 and "molvae track sync" in caplog.text
        server = start(tmp_path, port)
        assert tracking.sync(folder) == tracking.Summary(mirrored=1)
        assert tracking.sync(folder) == tracking.Summary(complete=1)
        client = tracking.connect(uri)
        runs = client.search_runs([client.get_experiment_by_name("molvae").experiment_id])
        found = {one.info.run_name: one for one in runs}
        assert sorted(one.info.run_name for one in runs) == ["example", "train"]
        train = found["train"]
        assert train.info.status == "FINISHED" and train.data.params == {"epochs": "9"}
        assert len(client.get_metric_history(train.info.run_id, "loss")) == 1500
        listed = [file.path for file in client.list_artifacts(train.info.run_id, "model")]
        assert {"model/model.json", "model/MLmodel"} <= set(
            listed
        )  # MLflow lists the run's model/ and its model as one
        assert len(train.inputs.dataset_inputs) == len(train.outputs.model_outputs) == 1
        assert [version.run_id for version in client.search_model_versions("name = 'sampler'")] == [train.info.run_id]
        assert capsys.readouterr().out == ""
    finally:
        if server.poll() is None:
            stop(server)
