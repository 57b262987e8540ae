"""The MLflow backend: sends records to MLflow. It imports mlflow only in its functions."""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
import sqlite3
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molvae.errors import ConfigError, DataError
from molvae.runtime.credentials import hide_credentials
from molvae.runtime.files import atomic_write, compute_json_hash
from molvae.runtime.provenance import get_versions
from molvae.tracking.artifact_locations import correct_artifact_locations, make_artifact_location
from molvae.tracking.records import (
    LOCK_SECONDS,
    Record,
    compute_digest,
    lock_folder,
    make_restore_command,
    make_ui_command,
    mark_killed,
    read_record,
    read_settings,
    resolve_uri,
    summarise_error,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MAX_PARAM, MAX_TAG, MAX_NAME, MAX_DIGEST = 6000, 5000, 250, 36  # characters that every MLflow 3 store accepts
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 keep a stage waiting for 4 minutes on a dead server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PGCONNECT_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout may be the samples
}


class MLflowBackend:
    """The run of one record in MLflow. It is found or created at the first update; later ones send what is new.

    Attributes:
        folder: with the records.
        uri: of the store.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder, uri
        self._client: Any = None
        self._run_id = ""

    def update(self, record: Record) -> bool:
        """Bring the run to the state of the record; False if it was in that state already.

        Raises:
            DataError: the MLflow experiment was deleted.
            MlflowException, SQLAlchemyError, OSError: MLflow failed.
        """
        self._client = self._client or connect_to_mlflow(self.uri)
        correct_artifact_locations(self.uri, self.folder.absolute().parent.parent)  # the folder may have been moved
        from mlflow.exceptions import MlflowException

        try:
            return self._send(record)
        except MlflowException as error:
            if "'active' state" in str(error):
                _check_project(self._client, record["project"], self.uri)
            raise

    def _send(self, record: Record) -> bool:
        if not self._run_id:
            self._find_run(record)
        has_ended = record["status"] != "RUNNING"
        if has_ended and self._tags.get("molvae.record") == compute_json_hash(record):
            return False
        self._send_values(record)
        for entry in record["artifacts"]:
            self._send_artifact(entry)
        self._send_dataset(record["dataset"])
        if has_ended:
            with lock_folder(self.folder):
                self._send_model(record)
                self._end_run(record)
        return True

    def _find_run(self, record: Record) -> None:
        """Find or create the parent run and the run, and read what the run has already."""
        with lock_folder(self.folder):  # two stages of one experiment may start at once
            project_id = _get_project_id(self._client, record["project"], self.uri)
            start, tags = record["start"], {"molvae.experiment": record["experiment"]}
            parent_id = _get_run_id(self._client, project_id, record["parent"], record["experiment"], start, tags)
            tags |= {"molvae.stage": record["stage"], "mlflow.parentRunId": parent_id}
            run_id = _get_run_id(self._client, project_id, record["key"], record["stage"], start, tags)
        run = self._client.get_run(run_id)
        self._project_id, self._parent_id = project_id, parent_id
        self._params, self._tags = dict(run.data.params), dict(run.data.tags)
        self._datasets = {entry.dataset.digest for entry in run.inputs.dataset_inputs}
        history = (point for key in run.data.metrics for point in self._client.get_metric_history(run_id, key))
        self._points = {(point.key, point.step, point.timestamp) for point in history}
        self._n_points = 0  # of the record, that were compared with those of the run
        self._run_id = run_id

    def _send_values(self, record: Record) -> None:
        from mlflow.entities import Metric

        points = [_make_point(entry) for entry in record["metrics"][self._n_points :]]
        new = [
            Metric(key, value, timestamp, step)
            for key, step, timestamp, value in points
            if (key, step, timestamp) not in self._points
        ]
        params, changed = _split_new_and_changed(record["params"], self._params)
        tags = {_make_valid_name(key): value[:MAX_TAG] for key, value in record["tags"].items()} | changed
        tags = {key: value for key, value in tags.items() if self._tags.get(key) != value}
        _log_batch(self._client, self._run_id, new, params, tags)
        self._params |= params
        self._tags |= tags
        self._n_points += len(points)

    def _set_tag(self, key: str, value: str) -> None:
        self._client.set_tag(self._run_id, key, value)
        self._tags[key] = value

    def _send_artifact(self, entry: Mapping[str, Any]) -> None:
        """Upload a file once. One that a later execution has overwritten belongs to that run, not to this one."""
        key = _make_valid_name(f"molvae.artifact.{entry['path']}")
        file, folder = self.folder.parent / entry["path"], Path(entry["path"]).parent
        if entry["sha256"] in (None, self._tags.get(key)):
            return
        if compute_digest(file) != entry["sha256"]:
            self._set_tag(key, "not uploaded: the file is gone or was overwritten since")
            return
        is_inside = not folder.is_absolute() and folder != Path(".")
        self._client.log_artifact(self._run_id, str(file), artifact_path=folder.as_posix() if is_inside else None)
        self._set_tag(key, entry["sha256"])

    def _send_dataset(self, dataset: Mapping[str, str] | None) -> None:
        if dataset is None or dataset["digest"][:MAX_DIGEST] in self._datasets:
            return
        from mlflow.entities import Dataset, DatasetInput
        from mlflow.exceptions import MlflowException

        kind, field = ("http", "url") if "://" in dataset["source"] else ("local", "uri")
        digest, source = dataset["digest"][:MAX_DIGEST], json.dumps({field: dataset["source"]})
        inputs = [DatasetInput(Dataset(dataset["name"], digest, kind, source))]
        try:
            self._client.log_inputs(self._run_id, inputs)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            self._client.log_inputs(self._run_id, inputs)  # another run logged the same data set at the same moment
        self._datasets.add(digest)

    def _send_model(self, record: Record) -> None:
        model = record["model"]
        if model is None or record["status"] != "FINISHED":
            return
        folder, model_id = self.folder.parent / model["path"], self._tags.get("molvae.model")
        if model_id is None or str(self._client.get_logged_model(model_id).status) != "READY":
            if model["sha256"] is None or compute_digest(folder) != model["sha256"]:
                log.warning("tracking: %s is gone or was overwritten, MLflow will not have this run's model.", folder)
                return
            if model_id is None:  # the tag comes before the upload, so that a retry finds the same model
                model_id = _get_model_id(self._client, self._project_id, self._run_id)
                self._set_tag("molvae.model", model_id)
            _upload_model(self._client, self._run_id, model_id, folder)
        if model["register"] and "molvae.registered" not in self._tags:
            version = _register_model(self._client, self.uri, model["register"], model_id, self._run_id)
            self._set_tag("molvae.registered", version)

    def _end_run(self, record: Record) -> None:
        """End the run, and give the parent run the stage's settings and, if no stage ended later, its status."""
        parent = self._client.get_run(self._parent_id)
        params = {f"{record['stage']}.{name}": value for name, value in record["params"].items()}
        _log_batch(self._client, self._parent_id, [], *_split_new_and_changed(params, parent.data.params))
        if (parent.info.end_time or 0) <= record["end"]:
            self._client.set_terminated(self._parent_id, record["status"], record["end"])
        self._client.set_terminated(self._run_id, record["status"], record["end"])
        self._set_tag("molvae.record", compute_json_hash(record))


def sync_record(path: Path, uri: str) -> bool:
    """Bring MLflow to the state of one record; False if it was in that state already."""
    return MLflowBackend(Path(path).parent, resolve_uri(uri)).update(read_record(Path(path)))


@dataclass
class SyncSummary:
    """How many records `sync_records` found in each state.

    Attributes:
        sent: MLflow has them now.
        complete: MLflow had them already.
        failed: could not be sent.
        killed: of all these, those that said RUNNING but whose process is gone.
    """

    sent: int = 0
    complete: int = 0
    failed: int = 0
    killed: int = 0

    def __str__(self) -> str:
        killed = f"; {self.killed} of them had been killed" if self.killed else ""
        return f"records: {self.sent} sent, {self.complete} complete already, {self.failed} failed{killed}"


def sync_records(results_dir: Path, uri: str | None = None) -> SyncSummary:
    """Send every record under a folder to MLflow, whether its stage could reach MLflow or not.

    Args:
        results_dir: results/, or the folder of one experiment.
        uri: of the store; by default the one that the environment names.

    Raises:
        DataError: there is no such folder.
        ConfigError: neither the call nor the environment names a store.
    """
    if not Path(results_dir).is_dir():
        raise DataError(f"{results_dir}: no such folder. Name the results folder, or the folder of one experiment.")
    uri = uri or getattr(read_settings(), "uri", None)
    if uri is None:
        raise ConfigError(
            "No MLflow store is named. Set MLFLOW_TRACKING_URI to a server or to the path of a database: mlflow.db."
        )
    paths = [path for path in Path(results_dir).rglob("tracking/*.json") if path.name != "experiment.json"]
    paths.sort(key=lambda path: path.stem.rsplit("-", 2)[1:])  # by time, so that the parent run gets the last status
    summary = SyncSummary()
    try:
        connect_to_mlflow(resolve_uri(uri))
    except list_failures() as error:
        log.warning("tracking: %s cannot be reached: %s", make_ui_command(uri), summarise_error(error, uri))
        return SyncSummary(failed=len(paths))
    for path in paths:
        try:
            summary.killed += mark_killed(path)
            is_new = sync_record(path, uri)
            summary.sent, summary.complete = summary.sent + is_new, summary.complete + (not is_new)
        except (*list_failures(), KeyError) as error:  # type: ignore[misc]
            summary.failed += 1
            log.warning("tracking: %s was not sent: %s", path, summarise_error(error, uri))
    return summary


def connect_to_mlflow(uri: str) -> MlflowClient:
    """Connect to a store that answers; a database without tables gets them first.

    Raises:
        MlflowException, SQLAlchemyError: no answer.
        OSError: the database cannot be used, or `uri` is no address.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return _connect(uri)
    except OSError:
        raise  # some are ValueErrors, too
    except ValueError:  # of the libraries that parse it; their texts hold the part that they cannot read
        raise OSError(f"{hide_credentials(uri)}: no valid address") from None


def _connect(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    for name in ("mlflow.store", "alembic", "urllib3.connectionpool"):  # logs of tables, retries and tracebacks
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        _create_database(database)
        _check_database(database)
    elif uri.startswith("postgresql"):
        _create_tables(uri)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_experiments(max_results=1)
    return client


def _create_database(database: Path) -> None:
    """Create the tables once and whole: processes that do so at the same time break each other's (MLflow 3.17.2)."""
    if database.exists():
        return
    from filelock import FileLock
    from mlflow import MlflowClient

    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock", timeout=LOCK_SECONDS):
        if not database.exists():
            with atomic_write(database) as temporary:
                MlflowClient(tracking_uri=f"sqlite:///{temporary}").search_experiments(max_results=1)


def _check_database(database: Path) -> None:
    """Fail at once where a database cannot be used; MLflow would try for minutes."""
    if "?" in str(database):
        raise OSError(f"{database}: MLflow takes no database with a question mark in its path")
    if not os.access(database, os.R_OK | os.W_OK):
        raise OSError(f"{database}: no permission to read and write it")
    try:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise OSError(f"{database}: {error}") from error


def _create_tables(uri: str) -> None:
    """Create the tables in PostgreSQL, for processes of several machines. Fail at once; MLflow tries for minutes."""
    import sqlalchemy
    from mlflow import MlflowClient

    with sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect() as connection:  # its end frees the lock
        connection.execute(sqlalchemy.text(f"SET lock_timeout = '{LOCK_SECONDS}s'"))
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(hashtext('molvae'))"))
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def _get_project_id(client: MlflowClient, name: str, uri: str) -> str:
    """Id of the MLflow experiment of that name. Files of an SQLite store go to mlartifacts/ beside it."""
    from mlflow.exceptions import MlflowException

    location = None
    if uri.startswith("sqlite:///"):
        location = make_artifact_location(Path(uri.removeprefix("sqlite:///")), name)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another process was faster
            if experiment is None:
                raise
    return experiment.experiment_id


def _check_project(client: MlflowClient, name: str, uri: str) -> None:
    """Check that the MLflow experiment of that name was not deleted; the name stays taken then."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise DataError(
            f"MLflow experiment {name[:60]!r} was deleted. Restore it with "
            f"`{make_restore_command(experiment.experiment_id, uri)}`, or set another tracking.experiment."
        )


def _get_run_id(client: MlflowClient, project_id: str, key: str, name: str, start: int, tags: Mapping[str, str]) -> str:
    """Id of the run with this key, which is created if there is none."""
    for run in client.search_runs([project_id], f"tags.`molvae.key` = '{key}'", max_results=1):
        return run.info.run_id
    tags = {**tags, "molvae.key": key}
    with _without_retries():
        return client.create_run(project_id, start_time=start, tags=tags, run_name=name).info.run_id


def _get_model_id(client: MlflowClient, project_id: str, run_id: str) -> str:
    """Id of the run's model, which is created if there is none."""
    for model in client.search_logged_models([project_id], f"source_run_id = '{run_id}'", max_results=1):
        return model.model_id
    with _without_retries():
        return client.create_logged_model(project_id, "model", run_id).model_id


@contextmanager
def _without_retries() -> Iterator[None]:
    """MLflow repeats a call whose answer was lost, which would create things twice. Here such a call fails."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ[name]
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ[name] = before


def _log_batch(
    client: MlflowClient, run_id: str, metrics: list, params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    from mlflow.entities import Param, RunTag

    new_params, new_tags = [Param(*pair) for pair in params.items()], [RunTag(*pair) for pair in tags.items()]
    while metrics or new_params or new_tags:  # a call takes 1000 items, 100 of them params or tags, and one megabyte
        client.log_batch(run_id, metrics[:800], new_params[:50], new_tags[:50])
        metrics, new_params, new_tags = metrics[800:], new_params[50:], new_tags[50:]


def _split_new_and_changed(
    params: Mapping[str, str], logged: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Params that are not logged yet, and tags for those logged with another value: MLflow's params cannot change."""
    params = {_make_valid_name(name): value[:MAX_PARAM] for name, value in params.items()}
    changed = {name: value for name, value in params.items() if logged.get(name, value) != value}
    new = {name: value for name, value in params.items() if name not in logged}
    return new, {_make_valid_name(f"changed.{name}"): value[:MAX_TAG] for name, value in changed.items()}


def _make_point(entry: Mapping[str, Any]) -> tuple[str, int, int, float]:
    return _make_valid_name(entry["key"]), entry["step"], entry["timestamp"], entry["value"]


def _make_valid_name(text: str) -> str:
    """Make a name that MLflow accepts for a metric, param or tag: unique@1000 becomes unique_at_1000."""
    allowed = re.sub(r"[^/\w.\- ]", "_", text.replace("@", "_at_"))
    return posixpath.normpath(allowed).lstrip("/.")[:MAX_NAME] or "_"


def _upload_model(client: MlflowClient, run_id: str, model_id: str, folder: Path) -> None:
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = {"n": "long", "seed": "long", "temperature": "double", "max_tries": "long", "mcmc_steps": "long"}
    inputs = [ColSpec(kind, name, required=False) for name, kind in columns.items()]
    warned = warnings.catch_warnings(record=True)  # about type hints
    with tempfile.TemporaryDirectory(prefix="molvae-") as temporary, warned:
        mlflow.pyfunc.save_model(
            f"{temporary}/model",
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={"model": folder.absolute().as_uri()},  # MLflow would take a path with # or % for a URI
            signature=ModelSignature(Schema(inputs), Schema([ColSpec("string", "smiles")])),
            pip_requirements=[f"molvae=={get_versions()['molvae']}"],  # else MLflow takes a minute to guess them
        )
        client.log_model_artifacts(model_id, f"{temporary}/model")
    if not client.get_run(run_id).outputs.model_outputs:  # a second time is an error
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    client.finalize_logged_model(model_id, "READY")


def _register_model(client: MlflowClient, uri: str, name: str, model_id: str, run_id: str) -> str:
    """Register the model as the next version under a name, unless it is one; returns 'name/version'."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"run_id = '{run_id}'"):  # a name may hold any quotation mark
        if version.name == name:
            return f"{name}/{version.version}"
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)  # a database's registry asks the process-wide store for the model, not ours (3.17.2)
    try:
        with _without_retries():
            version = client.create_model_version(name, f"models:/{model_id}", run_id=run_id, model_id=model_id)
        return f"{name}/{version.version}"
    finally:
        mlflow.set_tracking_uri(None)  # which also empties the variable
        if before:
            os.environ["MLFLOW_TRACKING_URI"] = before


def list_failures() -> tuple[type[Exception], ...]:
    """List the exceptions that tracking may fail with, those of mlflow only if it is imported."""
    if "mlflow" not in sys.modules:
        return OSError, ImportError, DataError
    from alembic.util import CommandError  # a database whose creation was interrupted
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return OSError, ImportError, DataError, MlflowException, RequestException, SQLAlchemyError, CommandError
