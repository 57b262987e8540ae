"""Records: one JSON file for each execution of a stage, in `{experiment_dir}/tracking/`; and the tracking settings."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from molvae.config import TrackingSettings, parse_settings
from molvae.errors import ConfigError, DataError
from molvae.runtime import provenance
from molvae.runtime.credentials import has_credentials, hide_credentials, hide_credentials_in
from molvae.runtime.files import atomic_write, compute_json_hash, compute_sha256, is_alive, read_json, write_json

FORMAT = 1
NETWORK_FILE_SYSTEMS = re.compile("nfs|cifs|smb|lustre|gpfs|beegfs|ceph|gluster|sshfs|afs|9p|panfs|weka")
DEFAULT_URI = "mlflow.db"
LOCK_SECONDS = 60

Record = dict[str, Any]


def read_settings() -> TrackingSettings | None:
    """Read the tracking settings from the environment: MOLVAE_TRACKING (JSON); MLFLOW_TRACKING_URI overrides its uri.

    Returns:
        the settings with an absolute `uri`; None for no tracking.

    Raises:
        ConfigError: MOLVAE_TRACKING is not a JSON object, or has an unknown key.
    """
    text, uri = os.environ.get("MOLVAE_TRACKING"), os.environ.get("MLFLOW_TRACKING_URI")
    if not text and not uri:
        return None
    try:
        content = dict(json.loads(text or "{}"))
    except (ValueError, TypeError) as err:
        example = '{"uri": "mlflow.db"}'
        shown = hide_credentials_in(repr(text), uri)
        raise ConfigError(f"MOLVAE_TRACKING={shown} is not a JSON object such as {example}: {err}.") from None
    settings = parse_settings(TrackingSettings, content, "MOLVAE_TRACKING.")
    if not settings.enabled:
        return None
    return settings.model_copy(update={"uri": resolve_uri(uri or settings.uri or DEFAULT_URI)})


def resolve_uri(uri: str) -> str:
    """Make an address independent of the working directory: a path or a relative SQLite URI becomes an absolute one.

    A path without a suffix is a folder, in which the database is `mlflow.db`.
    """
    if uri == "databricks" or (re.match(r"\w[\w+-]*:", uri) and not uri.startswith("sqlite:///")):
        return uri
    path = Path(uri.removeprefix("sqlite:///")).expanduser().absolute()
    return f"sqlite:///{path if path.suffix else path / DEFAULT_URI}"


def make_ui_command(uri: str) -> str:
    """Make the command, or the address for a browser, that shows the runs. It holds no password and may be logged."""
    uri = resolve_uri(uri)
    if uri.startswith("http"):
        return hide_credentials(uri)
    address = '"$MLFLOW_TRACKING_URI"' if has_credentials(uri) else shlex.quote(uri)
    return f"mlflow ui --backend-store-uri {address}"


def make_sync_command(folder: Path, uri: str) -> str:
    """Make the command that sends the records of a folder to MLflow. It holds no password, so it may be logged."""
    command = f"molvae track sync {shlex.quote(str(folder))}"
    return command if os.environ.get("MLFLOW_TRACKING_URI") else f"{_make_assignment(uri)} {command}"


def make_restore_command(experiment_id: str, uri: str) -> str:
    """Make the command that restores a deleted MLflow experiment. It holds no password, so it may be logged."""
    return f"{_make_assignment(uri)} mlflow experiments restore --experiment-id {experiment_id}"


def _make_assignment(uri: str) -> str:
    """Make the assignment of MLFLOW_TRACKING_URI, the beginning of a shell command, without a password."""
    uri = resolve_uri(uri)
    return f"MLFLOW_TRACKING_URI={'…' if has_credentials(uri) else shlex.quote(uri)}"


def find_network_file_system(uri: str) -> str | None:
    """Find the type of the network file system of an SQLite database, whose locks may fail; None: a local disk."""
    import psutil

    if not (uri := resolve_uri(uri)).startswith("sqlite:///"):
        return None
    kinds = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    folders = Path(uri.removeprefix("sqlite:///")).resolve().parents
    kind = next((kinds[folder] for folder in folders if folder in kinds), "")
    return kind if NETWORK_FILE_SYSTEMS.search(kind) else None


def make_record(stage: str, experiment: str, params: Mapping[str, Any]) -> Record:
    """Make the record of an execution that begins now.

    Args:
        stage: its name.
        experiment: name of the experiment.
        params: nested settings.
    """
    tags = {f"version.{library}": version for library, version in provenance.get_versions().items()}
    tags["host"] = socket.gethostname()
    if commit := provenance.get_git_commit():
        tags["mlflow.source.git.commit"] = commit
    return {
        "format": FORMAT, "key": uuid.uuid4().hex, "stage": stage, "experiment": experiment, "status": "RUNNING",
        "start": get_milliseconds(), "end": None, "host": socket.gethostname(), "pid": os.getpid(),
        "params": dict(_flatten_params(params)), "tags": tags, "metrics": [], "artifacts": [], "dataset": None,
        "model": None,
    }  # fmt: skip


def read_experiment_key(folder: Path, name: str) -> str:
    """Read the key of an experiment's parent run, made at its first stage. A copied or renamed folder gets a new one.

    Args:
        folder: with the records.
        name: of the experiment.
    """
    path = folder / "experiment.json"
    with lock_folder(folder):
        if not path.exists() or read_json(path)["name"] != name:
            write_json(path, {"format": FORMAT, "name": name, "key": uuid.uuid4().hex})
        key: str = read_json(path)["key"]
        return key


def _flatten_params(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten_params(value, f"{prefix}{name}.")
        else:
            is_nested = isinstance(value, list | tuple | Mapping)
            yield f"{prefix}{name}", json.dumps(value, default=str) if is_nested else str(value)


def write_record(path: Path, record: Record) -> None:
    """Write a record whole or not at all."""
    with atomic_write(path) as temporary:  # not indented: a long training has a hundred thousand points
        temporary.write_text(json.dumps(record, ensure_ascii=False), "utf-8")


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        DataError: not a record, or one of another format.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise DataError(f"{path}: not a record. Delete it.")
    if record.get("format") != FORMAT:
        raise DataError(f"{path}: a record of format {record.get('format')!r}, this molvae reads format {FORMAT}.")
    return record


def mark_killed(path: Path) -> bool:
    """Mark a record KILLED if it says RUNNING and its process, on this host, is gone."""
    record = read_record(path)
    if record["status"] != "RUNNING" or record["host"] != socket.gethostname() or is_alive(record["pid"]):
        return False
    write_record(path, record | {"status": "KILLED", "end": int(path.stat().st_mtime * 1000)})
    return True


def summarise_error(error: BaseException, uri: str | None) -> str:
    """Make a text of at most 600 characters from the first line of an error, without passwords.

    Args:
        error: of a stage, or of the libraries that send to MLflow and name its address in their errors.
        uri: that address.
    """
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return hide_credentials_in(first, uri)[:600]


def get_milliseconds() -> int:
    """Get the time, ms since 1970."""
    return time.time_ns() // 1_000_000


def compute_digest(path: Path) -> str | None:
    """Compute the digest of a file, or of all files of a folder; None if there is nothing that can be read."""
    try:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        digests = {file.relative_to(path).as_posix(): compute_sha256(file) for file in files}
    except OSError:
        return None
    return compute_json_hash(digests) if digests else None


def lock_folder(folder: Path) -> Any:
    """Make a lock that processes of one machine share, a context manager."""
    from filelock import FileLock

    return FileLock(folder / ".lock", timeout=LOCK_SECONDS)
