"""Runs: what the code of a stage logs to. A run writes the stage's record and sends it to MLflow as it grows."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from molvae.config import TrackingSettings
from molvae.errors import Interrupted
from molvae.runtime.credentials import hide_credentials
from molvae.tracking.mlflow_backend import MLflowBackend, list_failures
from molvae.tracking.records import (
    Record,
    compute_digest,
    get_milliseconds,
    make_record,
    make_sync_command,
    read_experiment_key,
    read_settings,
    summarise_error,
    write_record,
)

log = logging.getLogger(__name__)

MAX_TIME_FRACTION = 0.05  # of a stage's time that tracking may take while the stage runs


class Run:
    """An execution of a stage. This one is not tracked: it takes everything and does nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log a point of each metric's curve. Values that are not finite numbers become a tag instead."""

    def log_artifact(self, path: Path) -> None:
        """Log a finished file of the experiment's folder."""

    def log_dataset(self, *, name: str, digest: str, source: str) -> None:
        """Log the data set that the stage read; `source` is a path or URL."""

    def log_model(self, folder: Path) -> None:
        """Log a finished model folder as an MLflow model, once the stage has finished."""

    def set_tag(self, key: str, value: Any) -> None:
        """Set a tag; the last value stays."""

    def _finish(self, status: str, error: BaseException | None = None) -> None:
        pass


class RecordedRun(Run):
    """A tracked execution: writes the record, and sends it to MLflow until that fails once.

    Attributes:
        path: of the record.
        record: its content.
        settings: of tracking.
    """

    def __init__(self, path: Path, record: Record, settings: TrackingSettings) -> None:
        self.path, self.record, self.settings = path, record, settings
        self._uri = str(settings.uri)  # resolved, see `read_settings`
        self._backend: MLflowBackend | None = MLflowBackend(path.parent, self._uri)
        self._warned = False
        self._due = 0.0

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        now = get_milliseconds()
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

    def log_artifact(self, path: Path) -> None:
        entry = self._make_entry(path)
        earlier = [artifact for artifact in self.record["artifacts"] if artifact["path"] != entry["path"]]
        self.record["artifacts"] = [*earlier, entry]
        self._update()

    def log_dataset(self, *, name: str, digest: str, source: str) -> None:
        self.record["dataset"] = {"name": str(name), "digest": str(digest), "source": hide_credentials(str(source))}
        self._update()

    def log_model(self, folder: Path) -> None:
        self.record["model"] = self._make_entry(folder) | {"register": self.settings.register_as}

    def set_tag(self, key: str, value: Any) -> None:
        self.record["tags"][key] = str(value)
        self._update()

    def _make_entry(self, path: Path) -> dict[str, Any]:
        """Describe a file or folder for the record: its digest, and its path, relative to the experiment's folder."""
        path, folder = Path(path).absolute(), self.path.parent.parent.absolute()
        digest = compute_digest(path)
        if digest is None:
            log.warning("tracking: %s does not exist or cannot be read, MLflow will not have it.", path)
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
        return {"path": name, "sha256": digest}

    def _update(self, *, at_once: bool = False) -> None:
        """Write the record and send it, unless that would take more than MAX_TIME_FRACTION of the stage's time."""
        if time.monotonic() < self._due and not at_once:
            return
        start = time.monotonic()
        try:
            write_record(self.path, self.record)
            if self._backend:
                self._backend.update(self.record)
        except list_failures() as error:
            self._backend = None
            self._warn(error)
        end = time.monotonic()
        self._due = end + max(1.0, (end - start) / MAX_TIME_FRACTION)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            command = make_sync_command(self.path.parent.parent, self._uri)
            log.warning(
                "tracking failed, the stage continues: %s. `%s` sends the record %s to MLflow once that is repaired.",
                summarise_error(error, self._uri).rstrip("."),
                command,
                self.path,
            )
        self._warned = True

    def _finish(self, status: str, error: BaseException | None = None) -> None:
        self.record |= {"status": status, "end": get_milliseconds()}
        if error is not None:
            self.record["tags"]["error"] = summarise_error(error, self._uri)
        self._backend = self._backend or MLflowBackend(self.path.parent, self._uri)  # one more try
        self._update(at_once=True)


@contextmanager
def track_stage(name: str, *, experiment_dir: Path, params: Mapping[str, Any]) -> Iterator[Run]:
    """Track a block as one execution of a stage.

    Exceptions of the block pass through; a failure of tracking never fails the block.

    Args:
        name: of the stage.
        experiment_dir: for example results/example; its last part is the experiment's name.
        params: nested settings; they become parameters with dotted names.

    Raises:
        ConfigError: MOLVAE_TRACKING cannot be read (before the block begins).
    """
    run = _start_run(name, Path(experiment_dir), params)
    try:
        yield run
    except BaseException as error:
        run._finish(_get_status(error), error)
        raise
    run._finish("FINISHED")


def _start_run(name: str, experiment_dir: Path, params: Mapping[str, Any]) -> Run:
    settings = read_settings()
    if settings is None or os.environ.get("RANK", "0") != "0":  # torchrun: only the first process tracks
        return Run()
    folder = experiment_dir / "tracking"
    record = make_record(name, experiment_dir.absolute().name, params) | {"project": settings.experiment}
    start = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(record["start"] / 1000))
    run = RecordedRun(folder / f"{name}-{start}-{record['key'][:8]}.json", record, settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record["parent"] = read_experiment_key(folder, record["experiment"])
    except list_failures() as error:
        run._warn(error)
        return Run()
    run._update(at_once=True)
    run._due = 0.0  # the first update imported MLflow and may have created the database: later ones are faster
    return run


def _get_status(error: BaseException) -> str:
    """KILLED if a signal ended the stage: Ctrl-C, its own handler, or the exit code 128 + signal that it chose."""
    if isinstance(error, SystemExit):
        code = error.code or 0
        return "FINISHED" if code == 0 else "KILLED" if isinstance(code, int) and code > 128 else "FAILED"
    return "KILLED" if isinstance(error, KeyboardInterrupt | Interrupted) else "FAILED"
