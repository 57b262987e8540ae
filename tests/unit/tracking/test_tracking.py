"""Tracking with a real SQLite store, read back with MLflow's own client."""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
import uuid
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

import molvae
from molvae import tracking
from molvae.config import TrackingSettings
from molvae.errors import ConfigError, DataError, Interrupted
from molvae.tracking import mlflow_backend, runs
from molvae.tracking.artifact_locations import make_artifact_location
from molvae.tracking.records import make_restore_command, make_sync_command

DEAD_SERVER = "http://127.0.0.1:9"
UNREACHABLE = "sqlite:////proc/nothing/mlflow.db"  # fails at once, where DEAD_SERVER takes its two retries
PARAMS = {"epochs": 3, "model": {"latent_dim": 8, "layers": [16, 16]}, "device": None}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    tracking.connect_to_mlflow(uri)
    return uri


class TrackedExperiment:
    """An experiment folder, an MLflow experiment in the store, and what MLflow has of it."""

    def __init__(self, folder: Path, store: str, monkeypatch):
        self.folder, self.store, self.monkeypatch = folder, store, monkeypatch
        self.project = f"project-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        self.set_store(store)

    def set_store(self, uri: str, **settings) -> None:
        content = {"uri": uri, "experiment": self.project} | settings
        self.monkeypatch.setenv("MOLVAE_TRACKING", json.dumps(content))

    def track(self, stage: str = "train", **params):
        return tracking.track_stage(stage, experiment_dir=self.folder, params=params or PARAMS)

    @property
    def client(self):
        return tracking.connect_to_mlflow(self.store)

    def find_runs(self) -> dict[str, list]:
        """Find the runs by the name of their stage; the parent run has the name of its experiment."""
        experiment = self.client.get_experiment_by_name(self.project)
        by_name: dict[str, list] = {}
        for run in self.client.search_runs([experiment.experiment_id]) if experiment else []:
            by_name.setdefault(run.info.run_name, []).append(run)
        return by_name

    def read_curve(self, run, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, key)]

    def list_records(self) -> list[Path]:
        return [path for path in (self.folder / "tracking").glob("*.json") if path.name != "experiment.json"]

    def read_all(self) -> dict:
        """Read all that sending a record again must not change."""
        return {
            run.info.run_id: (
                run.info.status, run.info.start_time, run.info.end_time, run.data.params, run.data.tags,
                {key: self.read_curve(run, key) for key in run.data.metrics},
                [file.path for file in self.client.list_artifacts(run.info.run_id)],
                [entry.dataset.digest for entry in run.inputs.dataset_inputs],
                [output.model_id for output in run.outputs.model_outputs],
            )
            for runs in self.find_runs().values()
            for run in runs
        }  # fmt: skip


@pytest.fixture
def experiment(tmp_path, store, monkeypatch) -> TrackedExperiment:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    return TrackedExperiment(tmp_path / "results" / "example", store, monkeypatch)


def write_file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run_processes(jobs: list) -> list[int | None]:
    """Run all jobs at once, a process each, and return the exit codes; forked, as to import MLflow takes 7 s."""
    processes = [multiprocessing.get_context("fork").Process(target=job) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    return [process.exitcode for process in processes]


def write_model_folder(experiment: TrackedExperiment) -> Path:
    write_file(experiment.folder / "model" / "model.json", "{}")
    return write_file(experiment.folder / "model" / "model.safetensors", "tensors").parent


class StubModel:
    """A stand-in for a loaded model."""

    def __init__(self, folder):
        assert (Path(folder) / "model.safetensors").read_text() == "tensors"

    def sample(self, n, *, seed, temperature, max_tries, mcmc_steps):
        return [f"C{seed}{temperature}{'' if max_tries == 32 else max_tries}"] * n


def test_stage_becomes_a_child_run_of_its_experiment(experiment):
    with experiment.track() as run:
        for epoch in range(4):
            run.log_metrics({"train/loss": 2.0 - epoch / 4, "unique@1000": 0.5}, step=epoch)
        run.log_artifact(write_file(experiment.folder / "counts.json", "{}"))
        run.log_artifact(write_file(experiment.folder / "model" / "history.csv", "epoch,loss\n"))
        run.log_dataset(name="moses-small", digest="ab" * 32, source="data/x.csv.gz")
        run.set_tag("molvae.provenance", 7)
    with experiment.track("sample", n=100):
        pass
    runs = experiment.find_runs()
    (parent,), (train,), (sample,) = runs["example"], runs["train"], runs["sample"]
    assert train.data.tags["mlflow.parentRunId"] == sample.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert train.info.status == sample.info.status == parent.info.status == "FINISHED"
    assert train.info.end_time >= train.info.start_time
    assert train.data.params == {"epochs": "3", "model.latent_dim": "8", "model.layers": "[16, 16]", "device": "None"}
    stage_params = {f"train.{name}": value for name, value in train.data.params.items()}
    assert parent.data.params == stage_params | {"sample.n": "100"}
    assert experiment.read_curve(train, "train/loss") == [(0, 2.0), (1, 1.75), (2, 1.5), (3, 1.25)]
    assert train.data.metrics["unique_at_1000"] == 0.5
    assert train.data.tags["molvae.provenance"] == "7"
    assert "version.torch" in train.data.tags and "host" in train.data.tags
    paths = [
        file.path for folder in ("", "model") for file in experiment.client.list_artifacts(train.info.run_id, folder)
    ]
    assert sorted(paths) == ["counts.json", "model", "model/history.csv"]
    assert [entry.dataset.name for entry in train.inputs.dataset_inputs] == ["moses-small"]


def test_metrics_reach_mlflow_while_the_stage_runs(experiment):
    with experiment.track() as run:
        run.log_metrics({"loss": 1.0}, step=0)
        (train,) = experiment.find_runs()["train"]
        assert train.info.status == "RUNNING" and experiment.read_curve(train, "loss") == [(0, 1.0)]


def test_sending_a_record_again_changes_nothing_in_mlflow(experiment):
    with experiment.track() as run:
        run.log_metrics({"loss": 1.0}, step=0)
        run.log_metrics({"loss": 0.5}, step=1)
        run.log_artifact(write_file(experiment.folder / "counts.json", "{}"))
        run.log_dataset(name="d", digest="1", source="https://example.org/d")
        run.log_model(write_model_folder(experiment))
    before = experiment.read_all()
    (record,) = experiment.list_records()
    assert mlflow_backend.sync_record(record, experiment.store) is False
    assert tracking.sync_records(experiment.folder.parent, experiment.store) == tracking.SyncSummary(complete=1)
    for run_id in before:  # as if the last update had died just before its end
        experiment.client.set_tag(run_id, "molvae.record", "another")
    assert mlflow_backend.sync_record(record, experiment.store) is True
    after = experiment.read_all()
    for run_id, values in after.items():
        values[4].pop("molvae.record"), before[run_id][4].pop("molvae.record", None)
    assert after == before


def test_dead_server_costs_one_warning_and_sync_sends_everything(experiment, caplog):
    experiment.set_store(DEAD_SERVER)
    start = time.monotonic()
    with experiment.track() as run:
        for epoch in range(1200):
            run.log_metrics({"loss": 1 / (epoch + 1)}, step=epoch)
        run.log_artifact(write_file(experiment.folder / "counts.json", "{}"))
        result = "kept"
    assert result == "kept" and time.monotonic() - start < 30
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.name.startswith("molvae.tracking")]
    assert (
        f"`MLFLOW_TRACKING_URI={DEAD_SERVER} molvae track sync {experiment.folder}`" in warning
        and experiment.list_records()[0].name in warning
    )
    assert experiment.find_runs() == {}
    assert tracking.sync_records(experiment.folder, experiment.store) == tracking.SyncSummary(sent=1)
    (train,) = experiment.find_runs()["train"]
    assert train.info.status == "FINISHED" and len(train.data.params) == 4
    assert experiment.read_curve(train, "loss") == [(epoch, 1 / (epoch + 1)) for epoch in range(1200)]
    assert [file.path for file in experiment.client.list_artifacts(train.info.run_id)] == ["counts.json"]
    assert tracking.sync_records(experiment.folder, experiment.store) == tracking.SyncSummary(complete=1)


def test_sync_to_an_unreachable_store_reports_every_record_as_failed(experiment, caplog):
    with experiment.track():
        pass
    assert tracking.sync_records(experiment.folder.parent, UNREACHABLE) == tracking.SyncSummary(failed=1)
    assert "cannot be reached" in caplog.text


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("loss is NaN\nand more"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED"),
     (Interrupted("stopped at step 3 of 9"), "KILLED"),
     (SystemExit(1), "FAILED"), (SystemExit(0), "FINISHED")],
)  # fmt: skip
def test_exception_that_ends_a_stage_passes_through_and_decides_the_run_status(experiment, error, status):
    with pytest.raises(type(error)), experiment.track() as run:
        run.log_metrics({"loss": 1.0})
        raise error
    (train,) = experiment.find_runs()["train"]
    assert train.info.status == status and experiment.read_curve(train, "loss") == [(0, 1.0)]
    if isinstance(error, RuntimeError):
        assert train.data.tags["error"] == "loss is NaN"


def test_dead_postgresql_fails_at_once():
    from sqlalchemy.exc import OperationalError

    start = time.monotonic()
    with pytest.raises(OperationalError, match="refused"):
        tracking.connect_to_mlflow("postgresql://me@127.0.0.1:9/mlflow")
    assert time.monotonic() - start < 30  # MLflow's own tries take 109 s


def test_full_disk_does_not_fail_a_tracked_stage(experiment, monkeypatch, caplog):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with experiment.track() as run:
        monkeypatch.setattr(runs, "write_record", fail)
        for step in range(3):
            run._due = 0.0
            run.log_metrics({"loss": 1.0}, step=step)
    assert caplog.text.count("No space left") == 1


@pytest.mark.parametrize("when", ["before the stage", "during the stage"])
def test_warning_of_a_deleted_mlflow_experiment_has_the_command_that_restores_it(experiment, caplog, when):
    with experiment.track("featurize"):
        pass
    experiment_id = experiment.client.get_experiment_by_name(experiment.project).experiment_id
    if when == "before the stage":
        experiment.client.delete_experiment(experiment_id)
    with experiment.track() as run:
        if when == "during the stage":
            experiment.client.delete_experiment(experiment_id)
            run._due = 0.0
        run.log_metrics({"loss": 1.0})
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.name.startswith("molvae.tracking")]
    command = f"MLFLOW_TRACKING_URI={experiment.store} mlflow experiments restore --experiment-id {experiment_id}"
    assert f"{experiment.project!r} was deleted. Restore it with `{command}`, or set another tracking.exp" in warning
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(command, shell=True, check=True, env=environment, timeout=120, capture_output=True)
    assert tracking.sync_records(experiment.folder, experiment.store) == tracking.SyncSummary(sent=1, complete=1)
    assert {name: len(runs) for name, runs in experiment.find_runs().items()} == {
        "example": 1, "featurize": 1, "train": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "uri",
    ["http://me:hunter2@127.0.0.1:9/x?token=hunter2", "postgresql://me:hunter2@127.0.0.1:9/db",
     "postgresql://me@127.0.0.1:hunter2/db", "http://[hunter2", "other://me:hunter2@host/db", "me:hunter2@127.0.0.1:9"],
)  # fmt: skip
def test_secret_of_a_store_that_fails_is_neither_logged_nor_recorded_nor_raised(experiment, caplog, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    experiment.set_store(uri)
    with pytest.raises(RuntimeError), experiment.track() as run:
        run.log_dataset(name="d", digest="1", source="https://me:hunter2@example.org/d?hunter2")
        raise RuntimeError(f"no such place: {uri}")
    tracking.sync_records(experiment.folder, uri)
    assert "tracking failed" in caplog.text and "cannot be reached" in caplog.text
    assert "hunter2" not in caplog.text
    (record,) = experiment.list_records()
    assert "hunter2" not in record.read_text() and '"source": "https://example.org/d?***"' in record.read_text()


def test_settings_that_are_no_json_are_refused_without_their_password(monkeypatch):
    monkeypatch.setenv("MOLVAE_TRACKING", '{"uri": "postgresql://me:secret@host/db"')
    with pytest.raises(ConfigError, match="MOLVAE_TRACKING=.*is not a JSON object") as caught:
        tracking.read_settings()
    assert "secret" not in str(caught.value) and caught.value.__suppress_context__


@pytest.mark.parametrize("name", ["it's", 'a "b"', "<b>", "$(touch x)"])
def test_registered_model_may_have_any_name_that_mlflow_takes(experiment, name):
    experiment.set_store(experiment.store, register=name)
    with experiment.track() as run:
        run.log_model(write_model_folder(experiment))
    (train,) = experiment.find_runs()["train"]
    assert train.data.tags["molvae.registered"] == f"{name}/1"
    found = mlflow_backend._register_model(experiment.client, experiment.store, name, "m-0", train.info.run_id)
    assert found == f"{name}/1"


@pytest.mark.parametrize("name", ["..", ".hidden", "../../x", "a/b", "x" * 400, "分" * 400, "$(touch x)"])
def test_artifacts_of_any_mlflow_experiment_lie_in_one_folder_beside_the_database(tmp_path, name):
    location = make_artifact_location(tmp_path / "mlflow.db", name)
    folder = Path(location.removeprefix("file://"))
    assert folder.parent == tmp_path / "mlartifacts"
    folder.mkdir(parents=True)
    assert folder.resolve() == folder


def test_restore_command_holds_no_password():
    command = make_restore_command("7", "/data/a b/mlflow.db")
    assert command == (
        "MLFLOW_TRACKING_URI='sqlite:////data/a b/mlflow.db' mlflow experiments restore --experiment-id 7"
    )
    for uri in ("postgresql://me:secret@host/db", "https://me:secret@host/x"):
        assert "secret" not in make_restore_command("7", uri)


@pytest.mark.parametrize("content", ["unknown version", "no database", "a folder", "question mark"])
def test_broken_database_does_not_fail_a_tracked_stage(experiment, tmp_path, caplog, content):
    database = tmp_path / ("why?.db" if content == "question mark" else "broken.db")
    start = time.monotonic()
    if content == "a folder":  # which MLflow would try for minutes
        database.mkdir()
    elif content == "unknown version":  # alembic, not MLflow, refuses this one
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
            connection.execute("INSERT INTO alembic_version VALUES ('future')")
    else:
        database.write_text(content * 1000)
    experiment.set_store(str(database))
    with experiment.track() as run:
        run.log_metrics({"loss": 1.0})
    assert caplog.text.count("molvae track sync") == 1 and time.monotonic() - start < 60
    assert tracking.sync_records(experiment.folder, experiment.store) == tracking.SyncSummary(sent=1)


def test_metric_values_that_are_not_finite_become_a_tag(experiment):
    with experiment.track() as run:
        run.log_metrics({"loss": float("nan"), "kl": float("inf"), "name": "x", "fine": 1}, step=5)
    (train,) = experiment.find_runs()["train"]
    assert set(train.data.metrics) == {"fine"}
    assert train.data.tags["not_finite.loss"] == "nan at step 5" and train.data.tags["not_finite.kl"] == "inf at step 5"


def test_long_param_is_cut_and_a_changed_param_of_the_experiment_becomes_a_tag(experiment):
    for epochs in (1, 2):
        with experiment.track(epochs=epochs, smarts="C" * 7000):
            pass
    runs = experiment.find_runs()
    assert sorted(run.data.params["epochs"] for run in runs["train"]) == ["1", "2"]
    assert all(len(run.data.params["smarts"]) == 6000 for run in runs["train"])
    (parent,) = runs["example"]
    assert parent.data.params["train.epochs"] == "1" and parent.data.tags["changed.train.epochs"] == "2"


def test_artifact_that_a_later_execution_overwrote_is_not_sent_for_the_earlier_run(experiment):
    experiment.set_store(UNREACHABLE)
    with experiment.track() as run:
        run.log_artifact(write_file(experiment.folder / "metrics.json", "first"))
        run.log_artifact(experiment.folder / "missing.json")
    write_file(experiment.folder / "metrics.json", "second")
    assert tracking.sync_records(experiment.folder, experiment.store).sent == 1
    (train,) = experiment.find_runs()["train"]
    assert experiment.client.list_artifacts(train.info.run_id) == []
    assert "overwritten" in train.data.tags["molvae.artifact.metrics.json"]


def test_model_can_be_loaded_from_mlflow_and_is_registered_once(experiment, monkeypatch):
    monkeypatch.setattr(molvae, "load", StubModel, raising=False)
    experiment.set_store(experiment.store, register=f"sampler-{experiment.project}")
    upload = mlflow_backend._upload_model
    monkeypatch.setattr(mlflow_backend, "_upload_model", lambda *_: Path("/proc/nothing").read_bytes())  # dies half-way
    with experiment.track() as run:
        run.log_model(write_model_folder(experiment))
    assert len(experiment.client.search_logged_models([experiment.find_runs()["train"][0].info.experiment_id])) == 1
    monkeypatch.setattr(mlflow_backend, "_upload_model", upload)
    assert tracking.sync_records(experiment.folder, experiment.store) == tracking.SyncSummary(sent=1)
    assert tracking.sync_records(experiment.folder, experiment.store) == tracking.SyncSummary(complete=1)
    (train,) = experiment.find_runs()["train"]
    (output,) = train.outputs.model_outputs
    assert len(experiment.client.search_logged_models([train.info.experiment_id])) == 1
    (version,) = experiment.client.search_model_versions(f"name = 'sampler-{experiment.project}'")
    assert version.run_id == train.info.run_id and version.source == f"models:/{output.model_id}"
    assert "MLFLOW_TRACKING_URI" not in os.environ

    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", experiment.store)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    sampler = mlflow.pyfunc.load_model(f"models:/sampler-{experiment.project}/1")
    assert list(sampler.predict({"n": 3, "seed": 2, "temperature": 0.5})["smiles"]) == ["C20.5"] * 3
    import pandas as pd

    assert list(sampler.predict(pd.DataFrame([{"n": 2}]))["smiles"]) == ["C01.0"] * 2
    assert list(sampler.predict({"n": 1, "max_tries": 1})["smiles"]) == ["C01.01"]
    assert len(sampler.predict(pd.DataFrame([{}]))) == 1000
    with pytest.raises(ValueError, match="one row"):
        sampler.predict(pd.DataFrame({"n": [1, 2]}))
    assert not list(Path(experiment.store.removeprefix("sqlite:///")).parent.rglob("*.pkl"))


def test_failed_stage_logs_no_model(experiment):
    with pytest.raises(RuntimeError), experiment.track() as run:
        run.log_model(write_model_folder(experiment))
        raise RuntimeError
    (train,) = experiment.find_runs()["train"]
    assert train.outputs.model_outputs == [] and train.data.tags["error"] == "RuntimeError"


def test_missing_model_folder_costs_only_a_warning(experiment, caplog):
    for _ in range(2):
        with experiment.track() as run:
            run.log_model(experiment.folder / "model")
    runs = experiment.find_runs()["train"]
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert experiment.client.search_logged_models([runs[0].info.experiment_id]) == []
    assert "does not exist" in caplog.text and tracking.sync_records(experiment.folder) == tracking.SyncSummary(
        complete=2
    )


def test_sync_marks_the_record_of_a_dead_process_as_killed(experiment):
    def train():
        with experiment.track() as run:
            run.log_metrics({"loss": 1.0})
            os.kill(os.getpid(), 9)

    experiment.set_store(UNREACHABLE)
    assert run_processes([train]) == [-9]
    assert tracking.sync_records(experiment.folder, experiment.store) == tracking.SyncSummary(sent=1, killed=1)
    (train_run,) = experiment.find_runs()["train"]
    assert train_run.info.status == "KILLED" and experiment.read_curve(train_run, "loss") == [(0, 1.0)]
    assert experiment.find_runs()["example"][0].info.status == "KILLED"


def test_sync_of_a_damaged_record_fails_for_that_record_only(experiment, caplog):
    with experiment.track():
        pass
    write_file(experiment.folder / "tracking" / "train-20200101T000000Z-00000000.json", '{"format": 1, "sta')
    write_file(experiment.folder / "tracking" / "train-20200101T000000Z-00000001.json", '{"format": 99}')
    write_file(experiment.folder / "tracking" / "train-20200101T000000Z-00000002.json", "[]")
    assert tracking.sync_records(experiment.folder, experiment.store) == tracking.SyncSummary(complete=1, failed=3)
    assert "not a record. Delete it" in caplog.text
    assert "not a JSON file" in caplog.text and "format 99" in caplog.text


def test_four_processes_can_create_the_mlflow_database_at_once(experiment, tmp_path, monkeypatch):
    def work(name: str) -> None:
        with experiment.track(name, a=1) as run:
            for step in range(20):
                run.log_metrics({"loss": step}, step=step)
        sys.exit(bool(run._warned))

    experiment.store = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    experiment.set_store(experiment.store)
    names = ("one", "two", "three", "four")
    assert run_processes([partial(work, name) for name in names]) == [0] * 4
    runs = experiment.find_runs()
    assert {name: len(named) for name, named in runs.items()} == dict.fromkeys(("example", *names), 1)
    assert all(len(experiment.read_curve(runs[name][0], "loss")) == 20 for name in names)
    assert not list((tmp_path / "new").glob("*.tmp*"))


def test_tracking_is_off_unless_the_environment_names_a_store(tmp_path, monkeypatch):
    monkeypatch.delenv("MOLVAE_TRACKING", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for value in (None, '{"enabled": false, "uri": "mlflow.db"}'):
        if value:
            monkeypatch.setenv("MOLVAE_TRACKING", value)
        with tracking.track_stage("train", experiment_dir=tmp_path, params={}) as run:
            run.log_metrics({"loss": 1.0}, step=0)
            run.log_artifact(tmp_path / "nothing")
            run.log_dataset(name="d", digest="1", source="s")
            run.log_model(tmp_path)
            run.set_tag("a", "b")
        assert list(tmp_path.iterdir()) == []


def test_only_the_first_process_of_torchrun_tracks(experiment):
    experiment.monkeypatch.setenv("RANK", "1")
    with experiment.track():
        pass
    assert not (experiment.folder / "tracking").exists()


def test_tracking_uri_is_absolute_and_mlflow_tracking_uri_has_priority(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLVAE_TRACKING", '{"uri": "sqlite:///here.db", "register": "m"}')
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.read_settings() == TrackingSettings(
        uri=f"sqlite:///{tmp_path}/here.db", experiment="molvae", register="m"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking.read_settings() == TrackingSettings(uri="http://tracker:5000", experiment="molvae", register="m")
    monkeypatch.delenv("MOLVAE_TRACKING")
    assert tracking.read_settings() == TrackingSettings(uri="http://tracker:5000")
    assert tracking.resolve_uri("runs") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking.resolve_uri("postgresql+psycopg2://u:p@h/d") == "postgresql+psycopg2://u:p@h/d"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"url": "x"}', "MOLVAE_TRACKING.url.*Did you mean 'uri'"),
    ],
)
def test_wrong_tracking_settings_are_an_error_that_names_the_key(monkeypatch, value, message):
    monkeypatch.setenv("MOLVAE_TRACKING", value)
    with pytest.raises(ConfigError, match=message):
        tracking.read_settings()


def test_sync_without_folder_or_store_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("MOLVAE_TRACKING", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(DataError, match="no such folder"):
        tracking.sync_records(tmp_path / "result")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        tracking.sync_records(tmp_path)


def test_sync_command_names_the_store_and_no_password(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = make_sync_command("results/a b", "http://tracker:5000")
    assert command == "MLFLOW_TRACKING_URI=http://tracker:5000 molvae track sync 'results/a b'"
    assert "secret" not in make_sync_command("r", "postgresql://me:secret@host/db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert make_sync_command("r", "http://tracker:5000") == "molvae track sync r"


def test_ui_command_holds_no_password():
    assert (
        tracking.make_ui_command("/data/a b/mlflow.db")
        == "mlflow ui --backend-store-uri 'sqlite:////data/a b/mlflow.db'"
    )
    assert "secret" not in tracking.make_ui_command("postgresql://me:secret@host/db")
    assert tracking.make_ui_command("https://me:secret@host/x") == "https://host/x"


def test_network_file_system_of_a_database_is_that_of_its_nearest_mount(tmp_path, monkeypatch):
    mounts = {"/": "ext4", "/net": "nfs4", "/net/scratch": "autofs", "/net/local": "xfs", "/lustre": "lustre"}
    partitions = [SimpleNamespace(mountpoint=mountpoint, fstype=kind) for mountpoint, kind in mounts.items()]
    partitions.append(SimpleNamespace(mountpoint="/net/scratch", fstype="fuse.sshfs"))  # mounted over the other
    monkeypatch.setattr("psutil.disk_partitions", lambda all: partitions)
    expected = {
        "/home/me/mlflow.db": None, "sqlite:////net/me/mlflow.db": "nfs4", "/net/scratch/a/b.db": "fuse.sshfs",
        "/net/local/mlflow.db": None, "/network/mlflow.db": None, "/lustre/runs": "lustre",
        "http://net": None, "postgresql:///net": None,
    }  # fmt: skip
    assert {uri: tracking.find_network_file_system(uri) for uri in expected} == expected
    (tmp_path / "link").symlink_to("/net")
    assert tracking.find_network_file_system(f"{tmp_path}/link/mlflow.db") == "nfs4"


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("unique@1000", "unique_at_1000"),
        ("FCD/Test", "FCD/Test"),
        ("a=b", "a_b"),
        ("/x//y/", "x/y"),
        ("../x", "x"),
        ("", "_"),
    ],
)
def test_metric_names_become_those_that_mlflow_accepts(name, allowed):
    assert mlflow_backend._make_valid_name(name) == allowed


def test_mlflow_is_not_imported_before_something_is_sent():
    code = "import sys, molvae.tracking; sys.exit(bool({'mlflow', 'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
