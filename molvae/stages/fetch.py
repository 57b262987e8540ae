"""Stage `fetch`: bring a data set here, check it, and write it as one table of raw rows."""

from __future__ import annotations

import base64
import http.client
import logging
import re
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow

from molvae.data.accounting import write_counts
from molvae.data.formats import READABLE_SUFFIXES, find_suffix
from molvae.data.moses import MOSES, download_moses_wheel, iter_moses_rows
from molvae.data.readers import (
    ROW_GROUP,
    SPLIT_LIKE_NAME,
    Row,
    RowGroupWriter,
    find_delimiter,
    find_split_column,
    read_column_names,
    read_rows,
)
from molvae.errors import DataError
from molvae.runtime.credentials import find_address, hide_credentials_in, identify_address, is_web_address
from molvae.runtime.files import atomic_write, compute_json_hash, compute_sha256

if TYPE_CHECKING:
    from molvae.config import DataSettings

log = logging.getLogger(__name__)
SPLIT_NAMES = {  # as data sets call them, in small letters
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
KNOWN_SPLITS = frozenset(SPLIT_NAMES.values())
MAX_NAME = 60  # characters of a download's file name
MAX_SPLITS = 1000  # names; more are those of molecules
NO_SPLIT = frozenset({"na", "n/a", "nan", "none", "null"})
SCHEMA = pyarrow.schema(
    {"row": pyarrow.int64(), "smiles": pyarrow.string(), "split": pyarrow.string(), "problem": pyarrow.string()}
)


def fetch(settings: DataSettings, out: Path) -> dict[str, Any]:
    """Write the rows of a data set to `out` (parquet: row, smiles, split, problem) and their counts beside it (.json).

    Downloads are kept in `downloads/` beside `out` and used again if their checksum still holds.

    Returns:
        the counts: rows in all and by split, source, checksum.

    Raises:
        DataError: the source cannot be had, has another checksum than asked for, or is no table of SMILES.
    """
    downloads, source = out.parent / "downloads", identify_address(settings.source)
    if source == MOSES:
        path = download_moses_wheel(downloads)
        rows = iter_moses_rows(path)
    else:
        path = _find_or_download(settings.source, downloads, settings.sha256)
        rows = read_rows(path, settings.column, settings.split_column)
    checksum = compute_sha256(path)
    if settings.sha256 and checksum != settings.sha256:
        raise DataError(f"{path}: its SHA-256 is {checksum}, data.sha256 asks for {settings.sha256}.")
    try:
        if source != MOSES:
            _log_columns(path, settings)
        splits = _write_rows(path, rows, out)
        if source != MOSES:
            _warn_of_unknown_splits(path, splits)
    except DataError as err:
        if path.parent != downloads or settings.sha256 or source == MOSES:  # it is what was asked for
            raise
        path.unlink()  # or it would be taken for the data each time
        raise DataError(f"{source}: what was downloaded cannot be read, and was deleted: {err}") from err
    n_rows = sum(splits.values())
    return write_counts(
        out.with_suffix(".json"), "fetch", rows_in=n_rows, kept=n_rows, rejected={},
        dataset=out.stem, source=source, sha256=checksum, rows=n_rows, column=settings.column,
        splits={name: count for name, count in splits.items() if name},
    )  # fmt: skip


def _log_columns(path: Path, settings: DataSettings) -> None:
    """Say how a table is read and which column is the split, and warn of one that looks like it and is not."""
    names = read_column_names(path, settings.column)
    if not names:
        log.info("%s: no header; each line begins with a SMILES", path)
        return
    if (delimiter := find_delimiter(path, settings.column)) is not None:
        log.info("%s: a table of %d columns, separated by %r", path, len(names), delimiter)
    if (taken := find_split_column(names, settings.split_column)) is not None:
        log.info("%s: the split is that of column %s", path, taken)
    elif similar := [name for name in names if SPLIT_LIKE_NAME.search(name)]:
        log.warning(
            "%s: no column SPLIT, so the molecules are split by a hash. If column %s names the split, set "
            "data.split_column: %s", path, similar[0], similar[0],
        )  # fmt: skip
    else:
        log.info("%s: no column SPLIT; the molecules are split by a hash", path)


def _warn_of_unknown_splits(path: Path, splits: Mapping[str, int]) -> None:
    """Warn of split names that are not known: their molecules are not trained on."""
    if unknown := [f"{name!r} ({count})" for name, count in splits.items() if name and name not in KNOWN_SPLITS]:
        log.warning(
            "%s: molecules of the splits %s are neither trained on nor tested, unless validate.reference names one; "
            "molvae knows train, valid and test", path, ", ".join(unknown),
        )  # fmt: skip


def _write_rows(path: Path, rows: Iterator[Row], out: Path) -> dict[str, int]:
    """Write rows in groups of fixed size; returns how many each split has ('' for rows without one)."""
    splits: dict[str, int] = {}
    group: list[tuple[Any, ...]] = []
    with RowGroupWriter(out, SCHEMA) as writer:
        for number, row in enumerate(rows, start=1):
            split = _normalise_split(row.split)
            group.append((number, row.smiles, split, row.problem))
            splits[split or ""] = splits.get(split or "", 0) + 1
            if len(splits) > MAX_SPLITS:
                raise DataError(
                    f"{path}: its split column holds more than {MAX_SPLITS} different names, such as {split!r}. "
                    "Name another column as data.split_column."
                )
            if len(group) == ROW_GROUP:
                writer.write(_make_table(group))
                group = []
        if group:
            writer.write(_make_table(group))
    return splits


def _normalise_split(name: str | None) -> str | None:
    """Name a split as molvae does: "Test set" is test, "NA" none."""
    if not name:
        return name
    if name.lower() in NO_SPLIT:
        return None
    return SPLIT_NAMES.get(re.sub(r"[ _-]set$", "", name.lower()), name)


def _make_table(group: list[tuple[Any, ...]]) -> pyarrow.Table:
    return pyarrow.table([list(column) for column in zip(*group, strict=True)], schema=SCHEMA)


def _find_or_download(source: str, downloads: Path, checksum: str | None) -> Path:
    """Find the file itself, or download what a URL names."""
    if not is_web_address(source):
        return Path(source)
    public = identify_address(source)
    parts = urllib.parse.unquote(urllib.parse.urlsplit(public).path).strip("/").split("/")
    name = next((part for part in reversed(parts) if find_suffix(part)), None)  # …/molecules.csv/content, too
    if name is None:
        raise DataError(
            f"{public}: no part of this address ends in {', '.join(READABLE_SUFFIXES)}, with or without .gz. "
            "Download it by hand and set data.source to the file."
        )
    name = re.sub(r"[^\w.-]", "_", name)[-MAX_NAME:]
    path = downloads / f"{compute_json_hash(public)[:8]}-{name}"  # two addresses may end in the same name
    if not path.exists() or (checksum and compute_sha256(path) != checksum):
        _download(find_address(source), path)
    return path


def _download(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(_make_request(url), timeout=60) as answer, atomic_write(path) as temporary:  # noqa: S310
            with open(temporary, "wb") as file:
                shutil.copyfileobj(answer, file)
            if answer.length:
                raise OSError(f"the connection broke off {answer.length} bytes before the end")
    except (http.client.HTTPException, OSError, ValueError, OverflowError) as err:  # the latter: no valid address
        reason = hide_credentials_in(str(err), url)
        raise DataError(
            f"{identify_address(url)}: cannot be downloaded ({reason}). Download it by hand and set data.source to the "
            "file."
        ) from None


def _make_request(url: str) -> urllib.request.Request:
    """Make the request of an address. User and password, if it has them, go to its host and to no other."""
    start, _, rest = url.partition("://")
    authority = re.match(r"[^/?#]*", rest)[0]  # type: ignore[index]  # every text matches
    user, _, host = authority.rpartition("@")
    request = urllib.request.Request(f"{start}://{host}{rest[len(authority) :]}")  # noqa: S310
    if user:
        code = base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode()
        request.add_unredirected_header("Authorization", f"Basic {code}")
    return request
