"""What a stage's code holds while it runs: a run that writes the stage's record and has it mirrored as it grows."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from molvae.errors import Interrupted
from molvae.tracking.mlflow_backend import Mirror, failures
from molvae.tracking.records import (
    Settings,
    digest_of,
    experiment_key,
    milliseconds,
    new_record,
    one_line,
    save,
    settings,
    sync_command,
)

log = logging.getLogger(__name__)

MAX_SHARE = 0.05  # of a stage's time that tracking may take while the stage runs


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
        now = milliseconds()
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
        digest = digest_of(path)
        if digest is None:
            log.warning("tracking: %s does not exist or cannot be read, MLflow will not have it.", path)
        return {"path": path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path), "sha256": digest}

    def _update(self, *, at_once: bool = False) -> None:
        """Write the record and mirror it, unless that would take more than its share of the stage's time."""
        if time.monotonic() < self._due and not at_once:
            return
        began = time.monotonic()
        try:
            save(self.path, self.record)
            if self._mirror:
                self._mirror.push(self.record)
        except failures() as error:
            self._mirror = None
            self._warn(error)
        ended = time.monotonic()
        self._due = ended + max(1.0, (ended - began) / MAX_SHARE)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            command = sync_command(self.path.parent.parent, self.settings.uri)
            log.warning(
                "tracking failed, the stage goes on: %s. `%s` will bring the record %s to MLflow once that is mended.",
                *(one_line(error), command, self.path),
            )
        self._warned = True

    def _finish(self, status: str, error: BaseException | None = None) -> None:
        self.record |= {"status": status, "end": milliseconds()}
        if error is not None:
            self.record["tags"]["error"] = one_line(error)
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
    record = new_record(name, experiment_dir.absolute().name, params, lineage) | {"project": to.experiment}
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(record["start"] / 1000))
    run = RecordedRun(folder / f"{name}-{moment}-{record['key'][:8]}.json", record, to)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record["parent"] = experiment_key(folder, record["experiment"])
    except failures() as error:
        run._warn(error)
        return Run()
    run._update(at_once=True)
    run._due = 0.0  # that one imported MLflow and perhaps created the database: no measure of what follows
    return run


def _status(error: BaseException) -> str:
    """KILLED if a signal ended the stage: Ctrl-C, its own handler, or the exit code 128 + signal that it chose."""
    if isinstance(error, SystemExit):
        code = error.code or 0
        return "FINISHED" if code == 0 else "KILLED" if isinstance(code, int) and code > 128 else "FAILED"
    return "KILLED" if isinstance(error, KeyboardInterrupt | Interrupted) else "FAILED"
