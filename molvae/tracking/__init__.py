"""Experiment tracking: each execution of a stage writes a record, a JSON file, and MLflow gets a copy of each.

The records are the truth. `track_stage` writes one into `{experiment_dir}/tracking/` and sends it to MLflow as it
grows. If MLflow fails (no server, locked database, full disk), that costs one warning, and `sync_records` sends the
record later. A run is found by its key, a tag, so that sending a record again changes nothing. MLflow is imported only
once something is sent.
"""

from molvae.tracking.mlflow_backend import SyncSummary, connect_to_mlflow, sync_records
from molvae.tracking.records import find_network_file_system, make_ui_command, read_settings, resolve_uri
from molvae.tracking.runs import Run, track_stage

__all__ = [
    "Run",
    "SyncSummary",
    "connect_to_mlflow",
    "find_network_file_system",
    "make_ui_command",
    "read_settings",
    "resolve_uri",
    "sync_records",
    "track_stage",
]
