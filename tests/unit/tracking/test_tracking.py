"""Tracking against a real sqlite store, read back with MLflow's own client."""

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
from molvae.errors import ConfigError, DataError, Interrupted
from molvae.tracking import mlflow_backend, runs
from molvae.tracking.records import sync_command

DEAD = "http://127.0.0.1:9"
NOWHERE = "sqlite:////proc/nothing/mlflow.db"  # fails at once, where DEAD takes its two retries
PARAMS = {"epochs": 3, "model": {"latent_dim": 8, "layers": [16, 16]}, "device": None}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    tracking.connect(uri)
    return uri


class Place:
    """An experiment folder, a project of its own in the store, and what MLflow holds of it."""

    def __init__(self, folder: Path, store: str, monkeypatch):
        self.folder, self.store, self.monkeypatch = folder, store, monkeypatch
        self.project = f"project-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        self.use(store)

    def use(self, uri: str, **more) -> None:
        self.monkeypatch.setenv("MOLVAE_TRACKING", json.dumps({"uri": uri, "experiment": self.project} | more))

    def stage(self, name: str = "train", **params):
        return tracking.stage(name, experiment_dir=self.folder, params=params or PARAMS, lineage="abc123")

    @property
    def client(self):
        return tracking.connect(self.store)

    def runs(self) -> dict[str, list]:
        """The runs by the name of their stage; the parent run is under its experiment's name."""
        found = self.client.get_experiment_by_name(self.project)
        by_name: dict[str, list] = {}
        for run in self.client.search_runs([found.experiment_id]) if found else []:
            by_name.setdefault(run.info.run_name, []).append(run)
        return by_name

    def curve(self, run, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, key)]

    def records(self) -> list[Path]:
        return [path for path in (self.folder / "tracking").glob("*.json") if path.name != "experiment.json"]

    def everything(self) -> dict:
        """All that a second mirroring must not change."""
        return {
            run.info.run_id: (
                run.info.status, run.info.start_time, run.info.end_time, run.data.params, run.data.tags,
                {key: self.curve(run, key) for key in run.data.metrics},
                [file.path for file in self.client.list_artifacts(run.info.run_id)],
                [used.dataset.digest for used in run.inputs.dataset_inputs],
                [output.model_id for output in run.outputs.model_outputs],
            )
            for runs in self.runs().values()
            for run in runs
        }  # fmt: skip


@pytest.fixture
def place(tmp_path, store, monkeypatch) -> Place:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    return Place(tmp_path / "results" / "example", store, monkeypatch)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def exit_codes(jobs: list) -> list[int | None]:
    """Run each job in a process of its own, all at once; forked, as a new Python would import MLflow for 7 s."""
    processes = [multiprocessing.get_context("fork").Process(target=job) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    return [process.exitcode for process in processes]


def model_folder(place: Place) -> Path:
    write(place.folder / "model" / "model.json", "{}")
    return write(place.folder / "model" / "model.safetensors", "tensors").parent


class Stub:
    """Stands in for a loaded model."""

    def __init__(self, folder):
        assert (Path(folder) / "model.safetensors").read_text() == "tensors"

    def sample(self, n, *, seed, temperature, attempts, rounds):
        return [f"C{seed}{temperature}{'' if attempts == 32 else attempts}"] * n


def test_a_stage_becomes_a_run_under_its_experiments_run(place):
    with place.stage() as run:
        for epoch in range(4):
            run.log({"train/loss": 2.0 - epoch / 4, "unique@1000": 0.5}, step=epoch)
        run.artifact(write(place.folder / "books.json", "{}"))
        run.artifact(write(place.folder / "model" / "history.csv", "epoch,loss\n"))
        run.dataset(name="moses-small", digest="ab" * 32, source="data/x.csv.gz")
        run.tag("mood", 7)
    with place.stage("sample", n=100):
        pass
    runs = place.runs()
    (parent,), (train,), (sample,) = runs["example"], runs["train"], runs["sample"]
    assert train.data.tags["mlflow.parentRunId"] == sample.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert train.info.status == sample.info.status == parent.info.status == "FINISHED"
    assert train.info.end_time >= train.info.start_time
    assert train.data.params == {"epochs": "3", "model.latent_dim": "8", "model.layers": "[16, 16]", "device": "None"}
    of_train = {f"train.{name}": value for name, value in train.data.params.items()}
    assert parent.data.params == of_train | {"sample.n": "100"}
    assert place.curve(train, "train/loss") == [(0, 2.0), (1, 1.75), (2, 1.5), (3, 1.25)]
    assert train.data.metrics["unique_at_1000"] == 0.5
    assert train.data.tags["molvae.lineage"] == "abc123" and train.data.tags["mood"] == "7"
    assert "version.torch" in train.data.tags and "host" in train.data.tags
    listed = [file.path for folder in ("", "model") for file in place.client.list_artifacts(train.info.run_id, folder)]
    assert sorted(listed) == ["books.json", "model", "model/history.csv"]
    assert [used.dataset.name for used in train.inputs.dataset_inputs] == ["moses-small"]


def test_metrics_arrive_while_the_stage_runs(place):
    with place.stage() as run:
        run.log({"loss": 1.0}, step=0)
        (train,) = place.runs()["train"]
        assert train.info.status == "RUNNING" and place.curve(train, "loss") == [(0, 1.0)]


def test_mirroring_again_changes_nothing(place):
    with place.stage() as run:
        run.log({"loss": 1.0}, step=0)
        run.log({"loss": 0.5}, step=1)
        run.artifact(write(place.folder / "books.json", "{}"))
        run.dataset(name="d", digest="1", source="https://example.org/d")
        run.model(model_folder(place))
    before = place.everything()
    (record,) = place.records()
    assert mlflow_backend.mirror_record(record, place.store) is False
    assert tracking.sync(place.folder.parent, place.store) == tracking.Summary(complete=1)
    for run_id in before:  # as if the last mirroring had died just before its end
        place.client.set_tag(run_id, "molvae.record", "another")
    assert mlflow_backend.mirror_record(record, place.store) is True
    after = place.everything()
    for run_id, values in after.items():
        values[4].pop("molvae.record"), before[run_id][4].pop("molvae.record", None)
    assert after == before


def test_a_dead_server_costs_a_warning_and_sync_brings_everything(place, caplog):
    place.use(DEAD)
    began = time.monotonic()
    with place.stage() as run:
        for epoch in range(1200):
            run.log({"loss": 1 / (epoch + 1)}, step=epoch)
        run.artifact(write(place.folder / "books.json", "{}"))
        result = "kept"
    assert result == "kept" and time.monotonic() - began < 30
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.name.startswith("molvae.tracking")]
    assert (
        f"`MLFLOW_TRACKING_URI={DEAD} molvae track sync {place.folder}`" in warning
        and place.records()[0].name in warning
    )
    assert place.runs() == {}
    assert tracking.sync(place.folder, place.store) == tracking.Summary(mirrored=1)
    (train,) = place.runs()["train"]
    assert train.info.status == "FINISHED" and len(train.data.params) == 4
    assert place.curve(train, "loss") == [(epoch, 1 / (epoch + 1)) for epoch in range(1200)]
    assert [file.path for file in place.client.list_artifacts(train.info.run_id)] == ["books.json"]
    assert tracking.sync(place.folder, place.store) == tracking.Summary(complete=1)


def test_sync_to_an_unreachable_store_reports_every_record_as_failed(place, caplog):
    with place.stage():
        pass
    assert tracking.sync(place.folder.parent, NOWHERE) == tracking.Summary(failed=1)
    assert "cannot be reached" in caplog.text


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("loss is NaN\nand more"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED"),
     (Interrupted("stopped at step 3 of 9"), "KILLED"),
     (SystemExit(1), "FAILED"), (SystemExit(0), "FINISHED")],
)  # fmt: skip
def test_what_ends_a_stage_early_passes_through_and_is_its_status(place, error, status):
    with pytest.raises(type(error)), place.stage() as run:
        run.log({"loss": 1.0})
        raise error
    (train,) = place.runs()["train"]
    assert train.info.status == status and place.curve(train, "loss") == [(0, 1.0)]
    if isinstance(error, RuntimeError):
        assert train.data.tags["error"] == "loss is NaN"


def test_a_dead_postgresql_is_given_up_at_once():
    from sqlalchemy.exc import OperationalError

    began = time.monotonic()
    with pytest.raises(OperationalError, match="refused"):
        tracking.connect("postgresql://me@127.0.0.1:9/mlflow")
    assert time.monotonic() - began < 30  # MLflow's own tries take 109 s


def test_a_full_disk_does_not_fail_the_stage(place, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    with place.stage() as run:
        monkeypatch.setattr(runs, "save", full)
        for step in range(3):
            run._due = 0.0
            run.log({"loss": 1.0}, step=step)
    assert caplog.text.count("No space left") == 1


@pytest.mark.parametrize("content", ["unknown version", "no database", "a folder", "question mark"])
def test_a_broken_database_does_not_fail_the_stage(place, tmp_path, caplog, content):
    database = tmp_path / ("why?.db" if content == "question mark" else "broken.db")
    began = time.monotonic()
    if content == "a folder":  # which MLflow would try for minutes
        database.mkdir()
    elif content == "unknown version":  # alembic, not MLflow, refuses this one
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
            connection.execute("INSERT INTO alembic_version VALUES ('future')")
    else:
        database.write_text(content * 1000)
    place.use(str(database))
    with place.stage() as run:
        run.log({"loss": 1.0})
    assert caplog.text.count("molvae track sync") == 1 and time.monotonic() - began < 60
    assert tracking.sync(place.folder, place.store) == tracking.Summary(mirrored=1)


def test_values_that_are_no_finite_number_become_a_tag(place):
    with place.stage() as run:
        run.log({"loss": float("nan"), "kl": float("inf"), "name": "x", "fine": 1}, step=5)
    (train,) = place.runs()["train"]
    assert set(train.data.metrics) == {"fine"}
    assert train.data.tags["not_finite.loss"] == "nan at step 5" and train.data.tags["not_finite.kl"] == "inf at step 5"


def test_a_long_param_is_cut_and_a_changed_one_of_the_experiment_is_tagged(place):
    for epochs in (1, 2):
        with place.stage(epochs=epochs, smarts="C" * 7000):
            pass
    runs = place.runs()
    assert sorted(run.data.params["epochs"] for run in runs["train"]) == ["1", "2"]
    assert all(len(run.data.params["smarts"]) == 6000 for run in runs["train"])
    (parent,) = runs["example"]
    assert parent.data.params["train.epochs"] == "1" and parent.data.tags["changed.train.epochs"] == "2"


def test_a_file_that_a_later_execution_overwrote_is_not_given_to_the_earlier_run(place):
    place.use(NOWHERE)
    with place.stage() as run:
        run.artifact(write(place.folder / "metrics.json", "first"))
        run.artifact(place.folder / "missing.json")
    write(place.folder / "metrics.json", "second")
    assert tracking.sync(place.folder, place.store).mirrored == 1
    (train,) = place.runs()["train"]
    assert place.client.list_artifacts(train.info.run_id) == []
    assert "overwritten" in train.data.tags["molvae.artifact.metrics.json"]


def test_the_model_can_be_loaded_from_mlflow_and_is_registered_once(place, monkeypatch):
    monkeypatch.setattr(molvae, "load", Stub, raising=False)
    place.use(place.store, register=f"sampler-{place.project}")
    upload = mlflow_backend._upload_model
    monkeypatch.setattr(mlflow_backend, "_upload_model", lambda *_: Path("/proc/nothing").read_bytes())  # dies half-way
    with place.stage() as run:
        run.model(model_folder(place))
    assert len(place.client.search_logged_models([place.runs()["train"][0].info.experiment_id])) == 1
    monkeypatch.setattr(mlflow_backend, "_upload_model", upload)
    assert tracking.sync(place.folder, place.store) == tracking.Summary(mirrored=1)
    assert tracking.sync(place.folder, place.store) == tracking.Summary(complete=1)
    (train,) = place.runs()["train"]
    (output,) = train.outputs.model_outputs
    assert len(place.client.search_logged_models([train.info.experiment_id])) == 1
    (version,) = place.client.search_model_versions(f"name = 'sampler-{place.project}'")
    assert version.run_id == train.info.run_id and version.source == f"models:/{output.model_id}"
    assert "MLFLOW_TRACKING_URI" not in os.environ

    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.store)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    sampler = mlflow.pyfunc.load_model(f"models:/sampler-{place.project}/1")
    assert list(sampler.predict({"n": 3, "seed": 2, "temperature": 0.5})["smiles"]) == ["C20.5"] * 3
    import pandas as pd

    assert list(sampler.predict(pd.DataFrame([{"n": 2}]))["smiles"]) == ["C01.0"] * 2
    assert list(sampler.predict({"n": 1, "attempts": 1})["smiles"]) == ["C01.01"]
    assert len(sampler.predict(pd.DataFrame([{}]))) == 1000
    with pytest.raises(ValueError, match="one row"):
        sampler.predict(pd.DataFrame({"n": [1, 2]}))
    assert not list(Path(place.store.removeprefix("sqlite:///")).parent.rglob("*.pkl"))


def test_a_failed_stage_logs_no_model(place):
    with pytest.raises(RuntimeError), place.stage() as run:
        run.model(model_folder(place))
        raise RuntimeError
    (train,) = place.runs()["train"]
    assert train.outputs.model_outputs == [] and train.data.tags["error"] == "RuntimeError"


def test_a_model_that_is_gone_is_said_and_costs_nothing_else(place, caplog):
    for _ in range(2):
        with place.stage() as run:
            run.model(place.folder / "model")
    runs = place.runs()["train"]
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert place.client.search_logged_models([runs[0].info.experiment_id]) == []
    assert "does not exist" in caplog.text and tracking.sync(place.folder) == tracking.Summary(complete=2)


def test_a_record_whose_process_is_gone_is_killed_by_sync(place):
    def train():
        with place.stage() as run:
            run.log({"loss": 1.0})
            os.kill(os.getpid(), 9)

    place.use(NOWHERE)
    assert exit_codes([train]) == [-9]
    assert tracking.sync(place.folder, place.store) == tracking.Summary(mirrored=1, killed=1)
    (train_run,) = place.runs()["train"]
    assert train_run.info.status == "KILLED" and place.curve(train_run, "loss") == [(0, 1.0)]
    assert place.runs()["example"][0].info.status == "KILLED"


def test_a_damaged_record_fails_alone(place, caplog):
    with place.stage():
        pass
    write(place.folder / "tracking" / "train-20200101T000000Z-00000000.json", '{"format": 1, "sta')
    write(place.folder / "tracking" / "train-20200101T000000Z-00000001.json", '{"format": 99}')
    write(place.folder / "tracking" / "train-20200101T000000Z-00000002.json", "[]")
    assert tracking.sync(place.folder, place.store) == tracking.Summary(complete=1, failed=3)
    assert "not a record. Delete it" in caplog.text
    assert "not a JSON file" in caplog.text and "format 99" in caplog.text


def test_four_processes_can_create_the_database_at_once(place, tmp_path, monkeypatch):
    def work(name: str) -> None:
        with place.stage(name, a=1) as run:
            for step in range(20):
                run.log({"loss": step}, step=step)
        sys.exit(bool(run._warned))

    place.store = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    place.use(place.store)
    names = ("one", "two", "three", "four")
    assert exit_codes([partial(work, name) for name in names]) == [0] * 4
    runs = place.runs()
    assert {name: len(found) for name, found in runs.items()} == dict.fromkeys(("example", *names), 1)
    assert all(len(place.curve(runs[name][0], "loss")) == 20 for name in names)
    assert not list((tmp_path / "new").glob("*.tmp*"))


def test_tracking_is_off_unless_the_environment_names_a_store(tmp_path, monkeypatch):
    monkeypatch.delenv("MOLVAE_TRACKING", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for value in (None, '{"enabled": false, "uri": "mlflow.db"}'):
        if value:
            monkeypatch.setenv("MOLVAE_TRACKING", value)
        with tracking.stage("train", experiment_dir=tmp_path, params={}) as run:
            run.log({"loss": 1.0}, step=0)
            run.artifact(tmp_path / "nothing")
            run.dataset(name="d", digest="1", source="s")
            run.model(tmp_path)
            run.tag("a", "b")
        assert list(tmp_path.iterdir()) == []


def test_only_the_first_process_of_torchrun_tracks(place):
    place.monkeypatch.setenv("RANK", "1")
    with place.stage():
        pass
    assert not (place.folder / "tracking").exists()


def test_the_address_is_absolute_and_mlflows_own_variable_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLVAE_TRACKING", '{"uri": "sqlite:///here.db", "register": "m"}')
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.settings() == tracking.Settings(f"sqlite:///{tmp_path}/here.db", "molvae", "m")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking.settings() == tracking.Settings("http://tracker:5000", "molvae", "m")
    monkeypatch.delenv("MOLVAE_TRACKING")
    assert tracking.settings() == tracking.Settings("http://tracker:5000")
    assert tracking.resolve_uri("runs") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking.resolve_uri("postgresql+psycopg2://u:p@h/d") == "postgresql+psycopg2://u:p@h/d"


@pytest.mark.parametrize(
    ("value", "message"), [("{", "no JSON object"), ("[1]", "no JSON object"), ('{"url": "x"}', "Did you mean 'uri'")]
)
def test_settings_that_make_no_sense_are_named(monkeypatch, value, message):
    monkeypatch.setenv("MOLVAE_TRACKING", value)
    with pytest.raises(ConfigError, match=message):
        tracking.settings()


def test_sync_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.delenv("MOLVAE_TRACKING", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(DataError, match="no such folder"):
        tracking.sync(tmp_path / "result")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        tracking.sync(tmp_path)


def test_the_command_that_syncs_names_the_store_and_no_password(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told = sync_command("results/a b", "http://tracker:5000")
    assert told == "MLFLOW_TRACKING_URI=http://tracker:5000 molvae track sync 'results/a b'"
    assert "secret" not in sync_command("r", "postgresql://me:secret@host/db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert sync_command("r", "http://tracker:5000") == "molvae track sync r"


def test_the_command_for_the_browser_holds_no_password():
    assert tracking.ui_command("/data/a b/mlflow.db") == "mlflow ui --backend-store-uri 'sqlite:////data/a b/mlflow.db'"
    assert "secret" not in tracking.ui_command("postgresql://me:secret@host/db")
    assert tracking.ui_command("https://me:secret@host/x") == "https://host/x"


def test_a_database_on_a_network_file_system_is_known_by_its_nearest_mount(tmp_path, monkeypatch):
    mounts = {"/": "ext4", "/net": "nfs4", "/net/scratch": "autofs", "/net/local": "xfs", "/lustre": "lustre"}
    listed = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts.items()]
    listed.append(SimpleNamespace(mountpoint="/net/scratch", fstype="fuse.sshfs"))  # mounted over the other
    monkeypatch.setattr("psutil.disk_partitions", lambda all: listed)
    expected = {
        "/home/me/mlflow.db": None, "sqlite:////net/me/mlflow.db": "nfs4", "/net/scratch/a/b.db": "fuse.sshfs",
        "/net/local/mlflow.db": None, "/network/mlflow.db": None, "/lustre/runs": "lustre",
        "http://net": None, "postgresql:///net": None,
    }  # fmt: skip
    assert {uri: tracking.network_of(uri) for uri in expected} == expected
    (tmp_path / "link").symlink_to("/net")
    assert tracking.network_of(f"{tmp_path}/link/mlflow.db") == "nfs4"


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ("unique@1000", "unique_at_1000"),
        ("FCD/Test", "FCD/Test"),
        ("a=b", "a_b"),
        ("/x//y/", "x/y"),
        ("../x", "x"),
        ("", "_"),
    ],
)
def test_names_become_what_mlflow_allows(given, allowed):
    assert mlflow_backend._name(given) == allowed


def test_mlflow_is_not_imported_before_something_is_mirrored():
    code = "import sys, molvae.tracking; sys.exit(bool({'mlflow', 'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
