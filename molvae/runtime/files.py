"""Writing files whole or not at all, and knowing them by their content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from molvae.errors import DataError

PIECES, PIECE = 64, 65_536  # of a file, bytes each


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; it takes the place of `path` only if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all. NaN and infinity are refused: JSON has none."""
    with replacing(path) as temporary:
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


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled_digest(path: Path) -> str:
    """SHA-256 of a file's size and of 64 pieces of 64 kB spread over it, in hex: of any size in milliseconds."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        found = hashlib.sha256(str(size).encode())
        for piece in range(PIECES):
            file.seek(max(0, size - PIECE) * piece // (PIECES - 1))
            found.update(file.read(PIECE))
    return found.hexdigest()


def fingerprint(content: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of its keys, in hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
