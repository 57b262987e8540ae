"""A results folder that is moved, copied or linked, with its MLflow database: where the artifacts are, old and new."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from molvae import tracking
from molvae.tracking.artifact_locations import COLUMNS, correct_artifact_locations


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("MOLVAE_TRACKING", "MLFLOW_TRACKING_URI", "RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory) -> Path:
    """A database with MLflow's tables, to be copied: to make one takes seconds."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    tracking.connect_to_mlflow(f"sqlite:///{database}")
    return database


@pytest.fixture
def track(monkeypatch, empty_database):
    """Track a stage with an artifact and a registered model in a project; returns whether there was a warning."""

    def track(project: Path, stage: str, database: str = "results/mlflow.db") -> bool:
        folder = project / "results" / "example"
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model" / "model.json").write_text("{}")
        (folder / f"{stage}.txt").write_text(stage)
        if not (project / database).exists():
            shutil.copy(empty_database, project / database)
        monkeypatch.setenv("MOLVAE_TRACKING", json.dumps({"uri": f"{project / database}", "register": "sampler"}))
        with tracking.track_stage(stage, experiment_dir=folder, params={}) as run:
            run.log_artifact(folder / f"{stage}.txt")
            run.log_model(folder / "model")
        return run._warned

    return track


def get_path(location: str) -> Path:
    return Path(url2pathname(urlsplit(location).path))


def list_locations(database: Path) -> list[Path]:
    """List all locations of artifacts that a database has, but for the experiment that MLflow itself creates."""
    with closing(sqlite3.connect(database)) as connection:
        rows = [row for table, column in COLUMNS.items() for row in connection.execute(f"SELECT {column} FROM {table}")]
    return [get_path(text) for (text,) in rows if text.startswith("file:")]


def list_artifacts(project: Path) -> dict[str, list[str]]:
    """List what MLflow's client finds: the artifacts of each run; those of models are checked."""
    client = tracking.connect_to_mlflow(f"sqlite:///{project}/results/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'molvae'")
    runs = client.search_runs([experiment.experiment_id])
    models = client.search_logged_models([experiment.experiment_id])
    versions = [version.version for version in client.search_model_versions("name = 'sampler'")]
    locations = [model.artifact_location for model in models]
    locations += [client.get_model_version_download_uri("sampler", version) for version in versions]
    assert len(locations) == 2 * (len(runs) - 1) and all((get_path(text) / "MLmodel").exists() for text in locations)
    return {run.info.run_name: [file.path for file in client.list_artifacts(run.info.run_id)] for run in runs}


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("old", "new"), [("old", "new"), ("o l#d%20ü", "n e#w%41ß")])
def test_moved_project_has_its_old_and_new_artifacts_in_the_new_folder(tmp_path, track, old, new):
    track(tmp_path / old, "train")
    shutil.move(tmp_path / old, tmp_path / new)
    assert not track(tmp_path / new, "sample")
    assert not (tmp_path / old).exists()
    folder = tmp_path / new / "results" / "mlartifacts" / "molvae"
    locations = list_locations(tmp_path / new / "results" / "mlflow.db")
    assert len(locations) == 8  # of the experiment, three runs, two models and two versions
    assert all(location.is_relative_to(folder) for location in locations)
    assert list_artifacts(tmp_path / new) == {"example": [], "train": ["train.txt"], "sample": ["sample.txt"]}


def test_sync_alone_corrects_a_moved_store(tmp_path, track):
    track(tmp_path / "old", "train")
    shutil.move(tmp_path / "old" / "results", tmp_path / "moved" / "results-2024")
    results = tmp_path / "moved" / "results-2024"
    assert tracking.sync_records(results, f"{results}/mlflow.db") == tracking.SyncSummary(complete=1)
    assert all(location.is_relative_to(results) for location in list_locations(results / "mlflow.db"))


def test_copied_project_uses_its_own_folder_and_the_original_stays_as_it_is(tmp_path, track):
    track(tmp_path / "original", "train")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    before = read_files(tmp_path / "original")
    track(tmp_path / "copy", "sample")
    assert read_files(tmp_path / "original") == before
    locations = list_locations(tmp_path / "copy" / "results" / "mlflow.db")
    assert all(location.is_relative_to(tmp_path / "copy") for location in locations)
    assert list_artifacts(tmp_path / "copy")["train"] == ["train.txt"]
    assert set(list_artifacts(tmp_path / "original")) == {"example", "train"}


def test_link_to_the_project_changes_no_location_until_it_is_gone(tmp_path, track):
    track(tmp_path / "old", "train")
    before = list_locations(tmp_path / "old" / "results" / "mlflow.db")
    shutil.move(tmp_path / "old", tmp_path / "new")
    (tmp_path / "old").symlink_to("new")
    track(tmp_path / "new", "sample")
    assert set(before) <= set(list_locations(tmp_path / "new" / "results" / "mlflow.db"))
    (tmp_path / "old").unlink()
    track(tmp_path / "new", "validate")
    artifacts = list_artifacts(tmp_path / "new")
    assert artifacts == {"example": [], **{stage: [f"{stage}.txt"] for stage in ("train", "sample", "validate")}}
    assert not (tmp_path / "old").exists()


def test_runs_whose_files_are_only_in_the_old_folder_keep_them(tmp_path, track, monkeypatch):
    track(tmp_path / "old", "train")
    shutil.move(tmp_path / "old", tmp_path / "new")
    with monkeypatch.context() as patch:  # as molvae did before
        patch.setattr("molvae.tracking.mlflow_backend.correct_artifact_locations", lambda *_: None)
        track(tmp_path / "new", "sample")
    assert (tmp_path / "old" / "results" / "mlartifacts").exists()
    before = read_files(tmp_path / "old")
    track(tmp_path / "new", "validate")
    artifacts = list_artifacts(tmp_path / "new")
    assert artifacts == {"example": [], **{stage: [f"{stage}.txt"] for stage in ("train", "sample", "validate")}}
    assert read_files(tmp_path / "old") == before


def test_stage_that_runs_while_the_store_is_used_through_another_mount_writes_into_its_own_folder(
    tmp_path, track, monkeypatch
):
    track(tmp_path / "here", "train")
    monkeypatch.setenv(
        "MOLVAE_TRACKING", json.dumps({"uri": f"{tmp_path}/here/results/mlflow.db", "register": "sampler"})
    )
    folder = tmp_path / "here" / "results" / "example"
    with tracking.track_stage("sample", experiment_dir=folder, params={}) as run:
        shutil.move(tmp_path / "here", tmp_path / "mount")
        correct_artifact_locations(f"sqlite:///{tmp_path}/mount/results/mlflow.db", tmp_path / "mount" / "results")
        shutil.move(tmp_path / "mount", tmp_path / "here")
        run._due = 0.0
        run.log_artifact(folder / "train.txt")
        run.log_model(folder / "model")
    assert list_artifacts(tmp_path / "here") == {"example": [], "train": ["train.txt"], "sample": ["train.txt"]}
    assert not (tmp_path / "mount").exists()


def test_four_stages_can_start_at_once_in_a_moved_project(tmp_path, track):
    stages = ("one", "two", "three", "four")
    track(tmp_path / "old", "train")
    shutil.move(tmp_path / "old", tmp_path / "new")
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=lambda stage=stage: sys.exit(track(tmp_path / "new", stage))) for stage in stages
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * 4
    artifacts = list_artifacts(tmp_path / "new")
    assert artifacts == {"example": [], **{stage: [f"{stage}.txt"] for stage in ("train", *stages)}}
    assert not (tmp_path / "old").exists()


@pytest.mark.parametrize("database", ["mlflow.db", "results/runs.db", "link"])
def test_database_of_the_user_is_left_as_it_is(tmp_path, track, empty_database, database):
    if database == "link":
        (tmp_path / "old" / "results").mkdir(parents=True)
        (tmp_path / "old" / "results" / "mlflow.db").symlink_to(tmp_path / "shared.db")
        shutil.copy(empty_database, tmp_path / "shared.db")
        database = "results/mlflow.db"
    track(tmp_path / "old", "train", database)
    before = list_locations(tmp_path / "old" / database)
    shutil.move(tmp_path / "old", tmp_path / "new")
    track(tmp_path / "new", "sample", database)
    locations = list_locations(tmp_path / "new" / database)
    assert len(before) == 5 and set(before) < set(locations)
    assert not [location for location in locations if location.is_relative_to(tmp_path / "new")]


def test_location_that_molvae_did_not_write_is_left_as_it_is(tmp_path, track):
    track(tmp_path / "old", "train")
    client = tracking.connect_to_mlflow(f"sqlite:///{tmp_path}/old/results/mlflow.db")
    locations = [f"file://{tmp_path}/old/results/mlartifacts2/x", "s3://bucket/mlartifacts/x", "mlflow-artifacts:/3"]
    ids = [client.create_experiment(str(i), artifact_location=locations[i]) for i in range(3)]
    shutil.move(tmp_path / "old", tmp_path / "new")
    track(tmp_path / "new", "sample")
    client = tracking.connect_to_mlflow(f"sqlite:///{tmp_path}/new/results/mlflow.db")
    assert [client.get_experiment(experiment_id).artifact_location for experiment_id in ids] == locations


def test_default_store_that_cannot_be_read_is_an_error_of_tracking(tmp_path):
    database = tmp_path / "mlflow.db"
    sqlite3.connect(database).close()
    with pytest.raises(OSError, match="no such table: experiments"):
        correct_artifact_locations(f"sqlite:///{database}", tmp_path)
