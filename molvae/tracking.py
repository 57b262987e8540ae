"""Tracking: each execution of a stage leaves a record, a JSON file, and MLflow mirrors the records.

The records are the truth. `stage` writes one into `{experiment_dir}/tracking/` and mirrors it as it grows; what MLflow
could not take (no server, locked database, full disk) costs one warning, and `sync` brings it later. A run is found by
its key, a tag, so that mirroring a record again changes nothing. MLflow is imported only once something is mirrored.
"""

from __future__ import annotations

import json
import logging
import math
import os
import posixpath
import re
import shlex
import socket
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molvae import lineage as origin
from molvae.errors import ConfigError, DataError, did_you_mean
from molvae.files import fingerprint, read_json, replacing, sha256, write_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

FORMAT = 1  # of the records
MAX_PARAM, MAX_TAG, MAX_NAME, MAX_DIGEST = 6000, 5000, 250, 36  # characters that every MLflow 3 store accepts
MAX_SHARE = 0.05  # of a stage's time that tracking may take while the stage runs
LOCK_SECONDS = 60
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 keep a stage waiting for 4 minutes on a dead server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout may be the samples
}


# Settings


@dataclass(frozen=True)
class Settings:
    """Where to mirror to. `experiment` is MLflow's word: one for the project, with a parent run for each of ours."""

    uri: str
    experiment: str = "molvae"
    register: str | None = None  # name in the model registry for the models of finished trainings


def settings() -> Settings | None:
    """What the environment says, None for no tracking: MOLVAE_TRACKING (JSON), whose uri MLFLOW_TRACKING_URI overrules.

    Raises:
        ConfigError: MOLVAE_TRACKING is not a JSON object, or has an unknown key.
    """
    text, address = os.environ.get("MOLVAE_TRACKING"), os.environ.get("MLFLOW_TRACKING_URI")
    if not text:
        return Settings(resolve_uri(address)) if address else None
    try:
        given = dict(json.loads(text))
    except (ValueError, TypeError) as err:
        raise ConfigError(f'MOLVAE_TRACKING={text!r} is no JSON object such as {{"uri": "mlflow.db"}}: {err}.') from err
    keys = ("enabled", "uri", "experiment", "register")
    if unknown := [name for name in given if name not in keys]:
        raise ConfigError(f"MOLVAE_TRACKING has no key {unknown[0]!r}.{did_you_mean(unknown[0], keys)}")
    if not given.get("enabled", True):
        return None
    uri = resolve_uri(address or given.get("uri") or "mlflow.db")
    return Settings(uri, given.get("experiment") or "molvae", given.get("register"))


def resolve_uri(uri: str) -> str:
    """The same address from any working directory: a path or relative sqlite URI becomes an absolute sqlite URI.

    A path without a suffix is a folder, in which the database is `mlflow.db`.
    """
    if uri == "databricks" or (re.match(r"\w[\w+-]*:", uri) and not uri.startswith("sqlite:///")):
        return uri
    path = Path(uri.removeprefix("sqlite:///")).expanduser().absolute()
    return f"sqlite:///{path if path.suffix else path / 'mlflow.db'}"


def ui_command(uri: str) -> str:
    """What to type, or to open in a browser, to see the runs. Holds no password, so that it may stand in a log."""
    uri = resolve_uri(uri)
    if uri.startswith("http"):
        return re.sub(r"//[^/@]*@", "//", uri)
    secret = "@" in uri and not uri.startswith("sqlite")
    address = '"$MLFLOW_TRACKING_URI"' if secret else shlex.quote(uri)
    return f"mlflow ui --backend-store-uri {address}"


# Records


class Run:
    """The execution of a stage as its code sees it. This one is not tracked: it takes everything and does nothing."""

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add a point to the curve of each metric. Values that are no finite number become a tag instead."""

    def artifact(self, path: Path) -> None:
        """Keep a finished file of the experiment's folder with the run."""

    def dataset(self, *, name: str, digest: str, source: str) -> None:
        """Name the data the stage read; `source` is a path or URL."""

    def model(self, folder: Path) -> None:
        """Offer a finished model folder as an MLflow model, once the stage has finished."""

    def tag(self, key: str, value: Any) -> None:
        """Set a tag; the last value stays."""

    def _finish(self, status: str, error: BaseException | None = None) -> None:
        pass


class RecordedRun(Run):
    """A tracked execution: keeps the record, and mirrors it until that fails once."""

    def __init__(self, path: Path, record: dict[str, Any], to: Settings):
        self.path, self.record, self.settings = path, record, to
        self._mirror: Mirror | None = Mirror(path.parent, to.uri)
        self._warned = False
        self._due = 0.0

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        now = _milliseconds()
        for key, value in metrics.items():
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if math.isfinite(number):
                self.record["metrics"].append({"key": key, "value": number, "step": int(step), "timestamp": now})
            else:
                self.record["tags"].setdefault(f"not_finite.{key}", f"{value} at step {step}")
        self._update()

    def artifact(self, path: Path) -> None:
        entry = self._entry(path)
        others = [other for other in self.record["artifacts"] if other["path"] != entry["path"]]
        self.record["artifacts"] = [*others, entry]
        self._update()

    def dataset(self, *, name: str, digest: str, source: str) -> None:
        self.record["dataset"] = {"name": str(name), "digest": str(digest), "source": str(source)}
        self._update()

    def model(self, folder: Path) -> None:
        self.record["model"] = self._entry(folder) | {"register": self.settings.register}

    def tag(self, key: str, value: Any) -> None:
        self.record["tags"][key] = str(value)
        self._update()

    def _entry(self, path: Path) -> dict[str, Any]:
        """A file or folder as the record names it: relative to the experiment's folder where it lies in there."""
        path, home = Path(path).absolute(), self.path.parent.parent.absolute()
        digest = _digest(path)
        if digest is None:
            log.warning("tracking: %s does not exist or cannot be read, MLflow will not have it.", path)
        return {"path": path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path), "sha256": digest}

    def _update(self, *, at_once: bool = False) -> None:
        """Write the record and mirror it, unless that would take more than its share of the stage's time."""
        if time.monotonic() < self._due and not at_once:
            return
        began = time.monotonic()
        try:
            _save(self.path, self.record)
            if self._mirror:
                self._mirror.push(self.record)
        except _failures() as error:
            self._mirror = None
            self._warn(error)
        ended = time.monotonic()
        self._due = ended + max(1.0, (ended - began) / MAX_SHARE)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            command = f"molvae track sync {shlex.quote(str(self.path.parent.parent))}"
            log.warning(
                "tracking failed, the stage goes on: %s. `%s` will bring the record %s to MLflow once that is mended.",
                *(_one_line(error), command, self.path),
            )
        self._warned = True

    def _finish(self, status: str, error: BaseException | None = None) -> None:
        self.record |= {"status": status, "end": _milliseconds()}
        if error is not None:
            self.record["tags"]["error"] = _one_line(error)
        self._mirror = self._mirror or Mirror(self.path.parent, self.settings.uri)  # the one more try
        self._update(at_once=True)


@contextmanager
def stage(name: str, *, experiment_dir: Path, params: Mapping[str, Any], lineage: str | None = None) -> Iterator[Run]:
    """Track what happens in the block as one execution of the stage `name`.

    The block's own exceptions pass through; tracking itself never fails it.

    Args:
        experiment_dir: for example results/example; its last part is the experiment's name.
        params: nested settings; they become parameters with dotted names.
        lineage: id of everything the result follows from.
    Raises:
        ConfigError: MOLVAE_TRACKING cannot be understood (before the block begins).
    """
    run = _begin(name, Path(experiment_dir), params, lineage)
    try:
        yield run
    except BaseException as error:
        run._finish(_status(error), error)
        raise
    run._finish("FINISHED")


def _begin(name: str, experiment_dir: Path, params: Mapping[str, Any], lineage: str | None) -> Run:
    to = settings()
    if to is None or os.environ.get("RANK", "0") != "0":  # torchrun: the first process speaks for all
        return Run()
    folder = experiment_dir / "tracking"
    record = _new_record(name, experiment_dir.absolute().name, params, lineage) | {"project": to.experiment}
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(record["start"] / 1000))
    run = RecordedRun(folder / f"{name}-{moment}-{record['key'][:8]}.json", record, to)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record["parent"] = _experiment_key(folder, record["experiment"])
    except _failures() as error:
        run._warn(error)
        return Run()
    run._update(at_once=True)
    run._due = 0.0  # that one imported MLflow and perhaps created the database: no measure of what follows
    return run


def _new_record(name: str, experiment: str, params: Mapping[str, Any], lineage: str | None) -> dict[str, Any]:
    tags = {f"version.{library}": version for library, version in origin.versions().items()}
    tags["host"] = socket.gethostname()
    if commit := origin.git_commit():
        tags["mlflow.source.git.commit"] = commit
    if lineage:
        tags["molvae.lineage"] = lineage
    return {
        "format": FORMAT, "key": uuid.uuid4().hex, "stage": name, "experiment": experiment, "status": "RUNNING",
        "start": _milliseconds(), "end": None, "host": socket.gethostname(), "pid": os.getpid(),
        "params": dict(_flat(params)), "tags": tags, "metrics": [], "artifacts": [], "dataset": None, "model": None,
    }  # fmt: skip


def _experiment_key(folder: Path, name: str) -> str:
    """The key of the experiment's parent run, made at its first stage. A copied or renamed folder gets a new one."""
    path = folder / "experiment.json"
    with _lock(folder):
        if not path.exists() or read_json(path)["name"] != name:
            write_json(path, {"format": FORMAT, "name": name, "key": uuid.uuid4().hex})
        return read_json(path)["key"]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            is_nested = isinstance(value, list | tuple | Mapping)
            yield f"{prefix}{name}", json.dumps(value, default=str) if is_nested else str(value)


def _save(path: Path, record: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:  # not indented: a long training has a hundred thousand points
        temporary.write_text(json.dumps(record, ensure_ascii=False), "utf-8")


def _status(error: BaseException) -> str:
    """KILLED if a signal ended the stage: Ctrl-C, or the exit code 128 + signal that its handler chose."""
    if isinstance(error, SystemExit):
        code = error.code or 0
        return "FINISHED" if code == 0 else "KILLED" if isinstance(code, int) and code > 128 else "FAILED"
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


def _digest(path: Path) -> str | None:
    """Digest of a file, or of all files of a folder; None if there is nothing that can be read."""
    try:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return fingerprint({file.relative_to(path).as_posix(): sha256(file) for file in files}) if files else None
    except OSError:
        return None


def _lock(folder: Path) -> Any:
    from filelock import FileLock

    return FileLock(folder / ".lock", timeout=LOCK_SECONDS)


# The mirror


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
            with _lock(self.folder):
                self._send_model(record)
                self._close(record)
        return True

    def _find(self, record: Mapping[str, Any]) -> None:
        """Find or create the parent run and the run, and learn what the run has already."""
        self.client = connect(self.uri)
        with _lock(self.folder):  # two stages of one experiment may start at once
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
        if _digest(file) != entry["sha256"]:
            self._tag(key, "not uploaded: the file is gone or was overwritten since")
            return
        inside = not place.is_absolute() and place != Path(".")
        self.client.log_artifact(self.run_id, str(file), artifact_path=place.as_posix() if inside else None)
        self._tag(key, entry["sha256"])

    def _send_dataset(self, dataset: Mapping[str, str] | None) -> None:
        if dataset is None or dataset["digest"][:MAX_DIGEST] in self.datasets:
            return
        from mlflow.entities import Dataset, DatasetInput

        kind, field = ("http", "url") if "://" in dataset["source"] else ("local", "uri")
        digest, source = dataset["digest"][:MAX_DIGEST], json.dumps({field: dataset["source"]})
        self.client.log_inputs(self.run_id, [DatasetInput(Dataset(dataset["name"], digest, kind, source))])
        self.datasets.add(digest)

    def _send_model(self, record: Mapping[str, Any]) -> None:
        model = record["model"]
        if model is None or record["status"] != "FINISHED":
            return
        folder, model_id = self.folder.parent / model["path"], self.tags.get("molvae.model")
        if model_id is None or str(self.client.get_logged_model(model_id).status) != "READY":
            if model["sha256"] is None or _digest(folder) != model["sha256"]:
                log.warning("tracking: %s is gone or was overwritten, MLflow will not have this run's model.", folder)
                return
            if model_id is None:  # the tag comes before the upload, so that a retry takes up the same model
                model_id = self.client.create_logged_model(self.project, "model", self.run_id).model_id
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


def mirror(path: Path, uri: str) -> bool:
    """Bring MLflow to the state of one record; False if it was there already."""
    return Mirror(Path(path).parent, resolve_uri(uri)).push(_read(Path(path)))


@dataclass
class Summary:
    """How many records `sync` found in which state. `killed` counts among the others."""

    mirrored: int = 0
    complete: int = 0  # MLflow had them already
    failed: int = 0
    killed: int = 0  # said RUNNING, but their process is gone


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
    except _failures() as error:
        log.warning("tracking: %s cannot be reached: %s", ui_command(uri), _one_line(error))
        return Summary(failed=len(paths))
    for path in paths:
        try:
            summary.killed += _bury(path)
            new = mirror(path, uri)
            summary.mirrored, summary.complete = summary.mirrored + new, summary.complete + (not new)
        except (*_failures(), KeyError) as error:
            summary.failed += 1
            log.warning("tracking: %s was not mirrored: %s", path, _one_line(error))
    return summary


def _read(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if record.get("format") != FORMAT:
        raise DataError(f"{path}: a record of format {record.get('format')!r}, this molvae reads format {FORMAT}.")
    return record


def _bury(path: Path) -> bool:
    """Mark a record KILLED if it says RUNNING and its process, on this host, is gone."""
    record = _read(path)
    if record["status"] != "RUNNING" or record["host"] != socket.gethostname() or _is_alive(record["pid"]):
        return False
    _save(path, record | {"status": "KILLED", "end": int(path.stat().st_mtime * 1000)})
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# What MLflow needs


def connect(uri: str) -> MlflowClient:
    """A client for `uri`, which answers; a missing sqlite database is created first.

    Raises:
        MlflowException: no answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow.store", "alembic", "urllib3.connectionpool"):  # every table they make, every try they make
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri.startswith("sqlite:///"):
        _create_database(Path(uri.removeprefix("sqlite:///")))
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
    return client.create_run(project, start_time=start, tags={**tags, "molvae.key": key}, run_name=name).info.run_id


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

    columns = {"n": "long", "seed": "long", "temperature": "double"}
    asked = [ColSpec(kind, name, required=False) for name, kind in columns.items()]
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about type hints and input examples, both of no use here
        mlflow.pyfunc.save_model(
            f"{temporary}/model",
            python_model=str(Path(__file__).with_name("tracking_model.py")),
            artifacts={"model": str(folder)},
            signature=ModelSignature(Schema(asked), Schema([ColSpec("string", "smiles")])),
            pip_requirements=[f"molvae=={origin.versions()['molvae']}"],  # else MLflow spends a minute on guessing
        )
        client.log_model_artifacts(model_id, f"{temporary}/model")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    client.finalize_logged_model(model_id, "READY")


def _register(client: MlflowClient, uri: str, name: str, model_id: str, run_id: str) -> str:
    """Make the model the next version of the registered model `name`; returns 'name/version'."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)  # a database's registry asks the process-wide store for the model, not ours (3.17.2)
    try:
        made = client.create_model_version(name, f"models:/{model_id}", run_id=run_id, model_id=model_id)
        return f"{name}/{made.version}"
    finally:
        mlflow.set_tracking_uri(before)


def _failures() -> tuple[type[Exception], ...]:
    """What tracking may fail with. Asked only once something has failed, so that mlflow need not be imported for it."""
    if "mlflow" not in sys.modules:
        return OSError, ImportError, DataError
    from alembic.util import CommandError  # a database whose creation was cut off
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return OSError, ImportError, DataError, MlflowException, RequestException, SQLAlchemyError, CommandError
