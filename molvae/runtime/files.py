"""Writing files whole or not at all, and telling them apart by their content. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from molvae.errors import DataError

N_PIECES, PIECE_BYTES = 64, 65_536  # of a file that a sampled digest reads
ABANDONED_SECONDS = 86_400.0  # without a write, after which the temporary file of another host is abandoned


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, which takes the place of `path` only if the block ends without an error.

    The file gets the permissions that the umask gives, whoever writes it: some libraries make files for their owner
    alone. Temporary files that killed processes left beside this `path` are deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_abandoned(path)
    temporary = path.with_name(f".{path.name}.{_identify_host()}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _identify_host() -> str:
    """Identify what process ids belong to: the host and, in a container, its namespace of processes."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not Linux
        namespace = 0
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]


def _delete_abandoned(path: Path) -> None:
    """Delete temporary files of `path` whose process is gone; of other hosts, which may write now, only old ones."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\w{{8}})\.(\d+)\.tmp(-\w+)?")  # SQLite adds -journal
    with suppress(OSError):  # a folder that may not be read
        for name in os.listdir(path.parent):
            if match := pattern.fullmatch(name):
                temporary = path.with_name(name)
                with suppress(OSError):  # another process was first
                    is_here, process = match[1] == _identify_host(), int(match[2])
                    if not is_alive(process) if is_here else _is_old(temporary):
                        temporary.unlink()


def _is_old(path: Path) -> bool:
    """Whether nobody has written to a file for a day."""
    return time.time() - path.stat().st_mtime > ABANDONED_SECONDS


def is_alive(pid: int) -> bool:
    """Tell whether a process of this host lives."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all. NaN and infinity are refused: JSON has none."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: there is no such file, or it holds no JSON.
    """
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file. Run the stage that writes it first.") from err
    except ValueError as err:
        raise DataError(f"{path}: not a JSON file ({err}). Delete it and run the stage that writes it again.") from err


def compute_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_sampled_digest(path: Path) -> str:
    """Compute the SHA-256 of a file's size and 64 pieces of 64 kB spread over it, in hex: milliseconds for any size."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(str(size).encode())
        for piece in range(N_PIECES):
            file.seek(max(0, size - PIECE_BYTES) * piece // (N_PIECES - 1))
            digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()


def compute_json_hash(content: Any) -> str:
    """Compute the SHA-256 of a JSON-able value, independent of the order of its keys, in hex.

    >>> compute_json_hash({"a": 1, "b": 2}) == compute_json_hash({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
