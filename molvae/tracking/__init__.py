"""Tracking: each execution of a stage leaves a record, a JSON file, and MLflow mirrors the records.

The records are the truth. `stage` writes one into `{experiment_dir}/tracking/` and mirrors it as it grows; what MLflow
could not take (no server, locked database, full disk) costs one warning, and `sync` brings it later. A run is found by
its key, a tag, so that mirroring a record again changes nothing. MLflow is imported only once something is mirrored.
"""

from molvae.tracking.mlflow_backend import Summary, connect, sync
from molvae.tracking.records import Settings, network_of, resolve_uri, settings, ui_command
from molvae.tracking.runs import Run, stage

__all__ = [
    "Run",
    "Settings",
    "Summary",
    "connect",
    "network_of",
    "resolve_uri",
    "settings",
    "stage",
    "sync",
    "ui_command",
]
