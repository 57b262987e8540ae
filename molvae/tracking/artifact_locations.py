"""Where the default store has its artifacts: beside the database, also once the folder was moved or copied.

MLflow stores the absolute location of the artifacts with each experiment, run and model. So a moved store names its old
folder, and MLflow would create that again.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from molvae.tracking.records import DEFAULT_URI, LOCK_SECONDS

MAX_NAME = 60  # characters, of up to four bytes; a file system takes 255 bytes
COLUMNS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}


def make_artifact_location(database: Path, project: str) -> str:
    """Make the location of an MLflow experiment's artifacts: a folder in mlartifacts/ beside the SQLite database."""
    name = re.sub(r"^\.+|[^\w.-]", "_", project)[:MAX_NAME]
    return f"{_make_root(database)}/{name}"


def correct_artifact_locations(uri: str, results_dir: Path) -> None:
    """Make the default store name the artifacts beside it, wherever it was when it was written. Do nothing to others.

    Args:
        uri: of any store; the default one is mlflow.db in the results folder.
        results_dir: the results folder.

    Raises:
        OSError: the database cannot be read or written.
    """
    database = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not _is_default_store(database, results_dir):
        return
    try:
        with closing(sqlite3.connect(database, timeout=LOCK_SECONDS)) as connection:
            for root in _list_roots(connection):
                if not _is_same(_get_path(root).parent, database.parent):
                    _replace_root(connection, root, _make_root(database))
    except sqlite3.Error as error:
        raise OSError(f"{database}: {error}") from error


def _is_default_store(database: Path, results_dir: Path) -> bool:
    """Whether a database is molvae's own. One that a link leads to may be shared, so it is the user's."""
    folders = (results_dir, Path("results"))  # with Snakemake's storage plugins an experiment's folder is elsewhere
    is_in_results = any(_is_same(folder, database.parent) for folder in folders)
    return database.name == DEFAULT_URI and is_in_results and not database.is_symlink()


def _list_roots(connection: sqlite3.Connection) -> set[str]:
    """List the locations, without the last part, of the experiments that `make_artifact_location` located."""
    locations = connection.execute("SELECT artifact_location FROM experiments WHERE artifact_location LIKE 'file:%'")
    matches = (re.fullmatch("(file:.*/mlartifacts)/[^/]+", location) for (location,) in locations)
    return {match[1] for match in matches if match}


def _replace_root(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Replace the beginning of locations. Runs and models whose files are only in the old folder keep theirs."""

    def is_left(location: str) -> bool:
        moved = new + location.removeprefix(old)
        return os.path.exists(_get_path(location)) and not os.path.exists(_get_path(moved))

    connection.create_function("is_left", 1, is_left)
    with connection:  # one transaction; a process that does the same at the same time finds nothing to replace
        for table, column in COLUMNS.items():
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                + ("" if table == "experiments" else f" AND NOT is_left({column})"),
                (new, len(old) + 1, len(old) + 1, f"{old}/"),
            )


def _make_root(database: Path) -> str:
    return (database.parent / "mlartifacts").as_uri()


def _get_path(location: str) -> Path:
    return Path(url2pathname(urlsplit(location).path))


def _is_same(folder: Path, other: Path) -> bool:
    """Whether two paths lead to one folder: through a link or another mount they do."""
    try:
        return folder.samefile(other)
    except OSError:
        return False
