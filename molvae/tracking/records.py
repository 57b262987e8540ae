"""The records: one JSON file for each execution of a stage, in `{experiment_dir}/tracking/`. They are the truth."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molvae.errors import ConfigError, DataError, did_you_mean
from molvae.runtime import provenance as origin
from molvae.runtime.files import fingerprint, read_json, replacing, sha256, write_json

FORMAT = 1
NETWORK = re.compile("nfs|cifs|smb|lustre|gpfs|beegfs|ceph|gluster|sshfs|afs|9p|panfs|weka")  # in a mount's type
LOCK_SECONDS = 60


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
    address = '"$MLFLOW_TRACKING_URI"' if _is_secret(uri) else shlex.quote(uri)
    return f"mlflow ui --backend-store-uri {address}"


def sync_command(folder: Path, uri: str) -> str:
    """What to type to mirror the records of an experiment's folder. Holds no password: it may stand in a log."""
    command = f"molvae track sync {shlex.quote(str(folder))}"
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return command
    uri = resolve_uri(uri)
    return f"MLFLOW_TRACKING_URI={'…' if _is_secret(uri) else shlex.quote(uri)} {command}"


def _is_secret(uri: str) -> bool:
    """Whether an address may hold a password."""
    return "@" in uri and not uri.startswith("sqlite")


def network_of(uri: str) -> str | None:
    """Type of the network file system that a sqlite database lies on, whose locks may not hold; else None."""
    import psutil

    if not (uri := resolve_uri(uri)).startswith("sqlite:///"):
        return None
    kinds = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    folders = Path(uri.removeprefix("sqlite:///")).resolve().parents
    kind = next((kinds[folder] for folder in folders if folder in kinds), "")
    return kind if NETWORK.search(kind) else None


def new_record(name: str, experiment: str, params: Mapping[str, Any], lineage: str | None) -> dict[str, Any]:
    tags = {f"version.{library}": version for library, version in origin.versions().items()}
    tags["host"] = socket.gethostname()
    if commit := origin.git_commit():
        tags["mlflow.source.git.commit"] = commit
    if lineage:
        tags["molvae.lineage"] = lineage
    return {
        "format": FORMAT, "key": uuid.uuid4().hex, "stage": name, "experiment": experiment, "status": "RUNNING",
        "start": milliseconds(), "end": None, "host": socket.gethostname(), "pid": os.getpid(),
        "params": dict(_flat(params)), "tags": tags, "metrics": [], "artifacts": [], "dataset": None, "model": None,
    }  # fmt: skip


def experiment_key(folder: Path, name: str) -> str:
    """The key of the experiment's parent run, made at its first stage. A copied or renamed folder gets a new one."""
    path = folder / "experiment.json"
    with lock(folder):
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


def save(path: Path, record: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:  # not indented: a long training has a hundred thousand points
        temporary.write_text(json.dumps(record, ensure_ascii=False), "utf-8")


def read(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        DataError: no record, or one of another format.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise DataError(f"{path}: not a record. Delete it.")
    if record.get("format") != FORMAT:
        raise DataError(f"{path}: a record of format {record.get('format')!r}, this molvae reads format {FORMAT}.")
    return record


def bury(path: Path) -> bool:
    """Mark a record KILLED if it says RUNNING and its process, on this host, is gone."""
    record = read(path)
    if record["status"] != "RUNNING" or record["host"] != socket.gethostname() or _is_alive(record["pid"]):
        return False
    save(path, record | {"status": "KILLED", "end": int(path.stat().st_mtime * 1000)})
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def milliseconds() -> int:
    return time.time_ns() // 1_000_000


def digest_of(path: Path) -> str | None:
    """Digest of a file, or of all files of a folder; None if there is nothing that can be read."""
    try:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return fingerprint({file.relative_to(path).as_posix(): sha256(file) for file in files}) if files else None
    except OSError:
        return None


def lock(folder: Path) -> Any:
    from filelock import FileLock

    return FileLock(folder / ".lock", timeout=LOCK_SECONDS)
