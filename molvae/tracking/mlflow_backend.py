"""The mirror: brings MLflow to the state of the records. Only this module imports mlflow, and only in its functions."""

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
from molvae.runtime import provenance as origin
from molvae.runtime.files import fingerprint, replacing
from molvae.tracking.records import (
    LOCK_SECONDS,
    bury,
    digest_of,
    lock,
    one_line,
    read,
    resolve_uri,
    settings,
    ui_command,
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


class Mirror:
    """One record's run in MLflow. Finds or creates it at the first push, and from then on sends what is new."""

    def __init__(self, folder: Path, uri: str):
        self.folder, self.uri = folder, uri
        self.run_id: str | None = None

    def push(self, record: dict[str, Any]) -> bool:
        """Bring the run to the state of the record; False if it was there already."""
        if self.run_id is None:
            self._find(record)
        ended = record["status"] != "RUNNING"
        if ended and self.tags.get("molvae.record") == fingerprint(record):
            return False
        self._send_values(record)
        for entry in record["artifacts"]:
            self._send_artifact(entry)
        self._send_dataset(record["dataset"])
        if ended:
            with lock(self.folder):
                self._send_model(record)
                self._close(record)
        return True

    def _find(self, record: Mapping[str, Any]) -> None:
        """Find or create the parent run and the run, and learn what the run has already."""
        self.client = connect(self.uri)
        with lock(self.folder):  # two stages of one experiment may start at once
            project = _project(self.client, record["project"], self.uri)
            start, links = record["start"], {"molvae.experiment": record["experiment"]}
            self.parent = _run(self.client, project, record["parent"], record["experiment"], start, links)
            links |= {"molvae.stage": record["stage"], "mlflow.parentRunId": self.parent}
            run_id = _run(self.client, project, record["key"], record["stage"], start, links)
        run = self.client.get_run(run_id)
        self.project, self.params, self.tags = project, dict(run.data.params), dict(run.data.tags)
        self.datasets = {used.dataset.digest for used in run.inputs.dataset_inputs}
        history = (point for key in run.data.metrics for point in self.client.get_metric_history(run_id, key))
        self.points = {(point.key, point.step, point.timestamp) for point in history}
        self.seen = 0  # points of the record that were looked at
        self.run_id = run_id

    def _send_values(self, record: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        points = [_point(entry) for entry in record["metrics"][self.seen :]]
        new = [
            Metric(key, value, when, step) for key, step, when, value in points if (key, step, when) not in self.points
        ]
        params, changed = _missing(record["params"], self.params)
        tags = {_name(key): value[:MAX_TAG] for key, value in record["tags"].items()} | changed
        tags = {key: value for key, value in tags.items() if self.tags.get(key) != value}
        _send(self.client, self.run_id, new, params, tags)
        self.params |= params
        self.tags |= tags
        self.seen += len(points)

    def _tag(self, key: str, value: str) -> None:
        self.client.set_tag(self.run_id, key, value)
        self.tags[key] = value

    def _send_artifact(self, entry: Mapping[str, Any]) -> None:
        """Upload a file once. One that a later execution has overwritten belongs to that run, not to this one."""
        key = _name(f"molvae.artifact.{entry['path']}")
        file, place = self.folder.parent / entry["path"], Path(entry["path"]).parent
        if entry["sha256"] in (None, self.tags.get(key)):
            return
        if digest_of(file) != entry["sha256"]:
            self._tag(key, "not uploaded: the file is gone or was overwritten since")
            return
        inside = not place.is_absolute() and place != Path(".")
        self.client.log_artifact(self.run_id, str(file), artifact_path=place.as_posix() if inside else None)
        self._tag(key, entry["sha256"])

    def _send_dataset(self, dataset: Mapping[str, str] | None) -> None:
        if dataset is None or dataset["digest"][:MAX_DIGEST] in self.datasets:
            return
        from mlflow.entities import Dataset, DatasetInput
        from mlflow.exceptions import MlflowException

        kind, field = ("http", "url") if "://" in dataset["source"] else ("local", "uri")
        digest, source = dataset["digest"][:MAX_DIGEST], json.dumps({field: dataset["source"]})
        used = [DatasetInput(Dataset(dataset["name"], digest, kind, source))]
        try:
            self.client.log_inputs(self.run_id, used)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            self.client.log_inputs(self.run_id, used)  # another run brought the same data set at the same moment
        self.datasets.add(digest)

    def _send_model(self, record: Mapping[str, Any]) -> None:
        model = record["model"]
        if model is None or record["status"] != "FINISHED":
            return
        folder, model_id = self.folder.parent / model["path"], self.tags.get("molvae.model")
        if model_id is None or str(self.client.get_logged_model(model_id).status) != "READY":
            if model["sha256"] is None or digest_of(folder) != model["sha256"]:
                log.warning("tracking: %s is gone or was overwritten, MLflow will not have this run's model.", folder)
                return
            if model_id is None:  # the tag comes before the upload, so that a retry takes up the same model
                model_id = _logged_model(self.client, self.project, self.run_id)
                self._tag("molvae.model", model_id)
            _upload_model(self.client, self.run_id, model_id, folder)
        if model["register"] and "molvae.registered" not in self.tags:
            self._tag("molvae.registered", _register(self.client, self.uri, model["register"], model_id, self.run_id))

    def _close(self, record: Mapping[str, Any]) -> None:
        """End the run, and give the parent run the stage's settings and, if no stage ended later, its status."""
        parent = self.client.get_run(self.parent)
        settings_of_stage = {f"{record['stage']}.{name}": value for name, value in record["params"].items()}
        _send(self.client, self.parent, [], *_missing(settings_of_stage, parent.data.params))
        if (parent.info.end_time or 0) <= record["end"]:
            self.client.set_terminated(self.parent, record["status"], record["end"])
        self.client.set_terminated(self.run_id, record["status"], record["end"])
        self._tag("molvae.record", fingerprint(record))


def mirror_record(path: Path, uri: str) -> bool:
    """Bring MLflow to the state of one record; False if it was there already."""
    return Mirror(Path(path).parent, resolve_uri(uri)).push(read(Path(path)))


@dataclass
class Summary:
    """How many records `sync` found in which state. `killed` counts among the others."""

    mirrored: int = 0
    complete: int = 0  # MLflow had them already
    failed: int = 0
    killed: int = 0  # said RUNNING, but their process is gone

    def __str__(self) -> str:
        ended = f"; {self.killed} of them had been killed" if self.killed else ""
        return f"records: {self.mirrored} brought, {self.complete} there already, {self.failed} failed{ended}"


def sync(results_dir: Path, uri: str | None = None) -> Summary:
    """Mirror every record under a folder, whether its stage could reach MLflow or not.

    Args:
        results_dir: results/, or the folder of one experiment.
        uri: the store; by default the one that the environment names.
    Raises:
        DataError: there is no such folder.
        ConfigError: neither the call nor the environment names a store.
    """
    if not Path(results_dir).is_dir():
        raise DataError(f"{results_dir}: no such folder. Name the results folder, or the folder of one experiment.")
    uri = uri or getattr(settings(), "uri", None)
    if uri is None:
        raise ConfigError("Where to? Set MLFLOW_TRACKING_URI to a server or to the path of a database, e.g. mlflow.db.")
    paths = [path for path in Path(results_dir).rglob("tracking/*.json") if path.name != "experiment.json"]
    paths.sort(key=lambda path: path.stem.rsplit("-", 2)[1:])  # by time, so that the parent run gets the last status
    summary = Summary()
    try:
        connect(resolve_uri(uri))
    except failures() as error:
        log.warning("tracking: %s cannot be reached: %s", ui_command(uri), one_line(error))
        return Summary(failed=len(paths))
    for path in paths:
        try:
            summary.killed += bury(path)
            new = mirror_record(path, uri)
            summary.mirrored, summary.complete = summary.mirrored + new, summary.complete + (not new)
        except (*failures(), KeyError) as error:
            summary.failed += 1
            log.warning("tracking: %s was not mirrored: %s", path, one_line(error))
    return summary


def connect(uri: str) -> MlflowClient:
    """A client for `uri`, which answers; a database without tables gets them first.

    Raises:
        MlflowException, SQLAlchemyError: no answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow.store", "alembic", "urllib3.connectionpool"):  # tables, tries, tracebacks
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        _create_database(database)
        _open(database)
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
            with replacing(database) as temporary:
                MlflowClient(tracking_uri=f"sqlite:///{temporary}").search_experiments(max_results=1)


def _open(database: Path) -> None:
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
    """The same in PostgreSQL, for processes of several machines. Fails at once where MLflow would try for minutes."""
    import sqlalchemy
    from mlflow import MlflowClient

    with sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect() as connection:  # its end frees the lock
        connection.execute(sqlalchemy.text(f"SET lock_timeout = '{LOCK_SECONDS}s'"))
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(hashtext('molvae'))"))
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def _project(client: MlflowClient, name: str, uri: str) -> str:
    """Id of MLflow's experiment `name`. Files of a sqlite store go to mlartifacts/ beside it, whatever the cwd."""
    from mlflow.exceptions import MlflowException

    place = None
    if uri.startswith("sqlite:///"):
        place = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / re.sub(r"[^\w.-]", "_", name)).as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=place)
        except MlflowException:
            found = client.get_experiment_by_name(name)  # somebody was faster
            if found is None:
                raise
    return found.experiment_id


def _run(client: MlflowClient, project: str, key: str, name: str, start: int, tags: Mapping[str, str]) -> str:
    """Id of the run with this key, which is created if there is none."""
    found = client.search_runs([project], f"tags.`molvae.key` = '{key}'", max_results=1)
    if found:
        return found[0].info.run_id
    with _sent_once():
        return client.create_run(project, start_time=start, tags={**tags, "molvae.key": key}, run_name=name).info.run_id


def _logged_model(client: MlflowClient, project: str, run_id: str) -> str:
    """Id of the run's model, which is created if there is none."""
    found = client.search_logged_models([project], f"source_run_id = '{run_id}'", max_results=1)
    if found:
        return found[0].model_id
    with _sent_once():
        return client.create_logged_model(project, "model", run_id).model_id


@contextmanager
def _sent_once() -> Iterator[None]:
    """MLflow sends a call again whose answer was lost, and what it creates is there twice. Here such a call fails."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ[name]
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ[name] = before


def _send(client: MlflowClient, run_id: str, metrics: list, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    some, more = [Param(*pair) for pair in params.items()], [RunTag(*pair) for pair in tags.items()]
    while metrics or some or more:  # a call takes 1000 things, 100 of them params or tags, in one megabyte
        client.log_batch(run_id, metrics[:800], some[:50], more[:50])
        metrics, some, more = metrics[800:], some[50:], more[50:]


def _missing(wanted: Mapping[str, str], there: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Params that are not there yet, and tags for those that are with another value: MLflow's params cannot change."""
    wanted = {_name(name): value[:MAX_PARAM] for name, value in wanted.items()}
    changed = {name: value for name, value in wanted.items() if there.get(name, value) != value}
    new = {name: value for name, value in wanted.items() if name not in there}
    return new, {_name(f"changed.{name}"): value[:MAX_TAG] for name, value in changed.items()}


def _point(entry: Mapping[str, Any]) -> tuple[str, int, int, float]:
    return _name(entry["key"]), entry["step"], entry["timestamp"], entry["value"]


def _name(text: str) -> str:
    """`text` as MLflow lets a metric, param or tag be called: unique@1000 becomes unique_at_1000."""
    allowed = re.sub(r"[^/\w.\- ]", "_", text.replace("@", "_at_"))
    return posixpath.normpath(allowed).lstrip("/.")[:MAX_NAME] or "_"


def _upload_model(client: MlflowClient, run_id: str, model_id: str, folder: Path) -> None:
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = {"n": "long", "seed": "long", "temperature": "double", "attempts": "long", "rounds": "long"}
    asked = [ColSpec(kind, name, required=False) for name, kind in columns.items()]
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings(record=True):  # about type hints
        mlflow.pyfunc.save_model(
            f"{temporary}/model",
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={"model": str(folder)},
            signature=ModelSignature(Schema(asked), Schema([ColSpec("string", "smiles")])),
            pip_requirements=[f"molvae=={origin.versions()['molvae']}"],  # else MLflow spends a minute on guessing
        )
        client.log_model_artifacts(model_id, f"{temporary}/model")
    if not client.get_run(run_id).outputs.model_outputs:  # a second time is an error
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    client.finalize_logged_model(model_id, "READY")


def _register(client: MlflowClient, uri: str, name: str, model_id: str, run_id: str) -> str:
    """Make the model the next version of the registered model `name`, unless it is one; returns 'name/version'."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for there in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'", max_results=1):
        return f"{name}/{there.version}"
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)  # a database's registry asks the process-wide store for the model, not ours (3.17.2)
    try:
        with _sent_once():
            made = client.create_model_version(name, f"models:/{model_id}", run_id=run_id, model_id=model_id)
        return f"{name}/{made.version}"
    finally:
        mlflow.set_tracking_uri(None)  # which also empties the variable
        if before:
            os.environ["MLFLOW_TRACKING_URI"] = before


def failures() -> tuple[type[Exception], ...]:
    """What tracking may fail with. Asked only once something has failed, so that mlflow need not be imported for it."""
    if "mlflow" not in sys.modules:
        return OSError, ImportError, DataError
    from alembic.util import CommandError  # a database whose creation was cut off
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return OSError, ImportError, DataError, MlflowException, RequestException, SQLAlchemyError, CommandError
