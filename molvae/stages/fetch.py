"""Stage `fetch`: bring a data set here, check it, and lay it down as one table of raw rows."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow

from molvae.data.accounting import close_books
from molvae.data.readers import ROW_GROUP, SUFFIXES, EvenWriter, Row, kind_of, read_rows
from molvae.errors import DataError
from molvae.runtime.files import fingerprint, replacing, sha256

if TYPE_CHECKING:
    from molvae.config import DataSettings

MOSES_WHEEL = "molsets==0.3.1"  # byte-identical to the files of the MOSES repository
MOSES_SHA256 = "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34"
MOSES_SPLITS = ("train", "test", "test_scaffolds")
SPLIT_NAMES = {  # as data sets call them, in small letters
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SCHEMA = pyarrow.schema(
    {"row": pyarrow.int64(), "smiles": pyarrow.string(), "split": pyarrow.string(), "problem": pyarrow.string()}
)


def fetch(settings: DataSettings, out: Path) -> dict[str, Any]:
    """Write the rows of a data set to `out` (parquet: row, smiles, split, problem) and its books beside it (.json).

    Downloads are kept in `downloads/` beside `out` and used again if their checksum still holds.

    Returns:
        the books: rows in all and by split, source, checksum.
    Raises:
        DataError: the source cannot be had, has another checksum than asked for, or is no table of SMILES.
    """
    downloads = out.parent / "downloads"
    if settings.source == "moses":
        path = moses_wheel(downloads)
        rows = _moses_rows(path)
    else:
        path = _local(settings.source, downloads, settings.sha256)
        rows = read_rows(path, settings.column, settings.split_column)
    checksum = sha256(path)
    if settings.sha256 and checksum != settings.sha256:
        raise DataError(f"{path}: its SHA-256 is {checksum}, data.sha256 asks for {settings.sha256}.")
    try:
        splits = _write(rows, out)
    except DataError as err:
        if path.parent != downloads or settings.sha256 or settings.source == "moses":  # it is what was asked for
            raise
        path.unlink()  # or it would be taken for the data each time
        raise DataError(f"{settings.source}: what was downloaded cannot be read, and was deleted: {err}") from err
    count = sum(splits.values())
    return close_books(
        out.with_suffix(".json"), "fetch", rows_in=count, kept=count, rejected={},
        dataset=out.stem, source=settings.source, sha256=checksum, rows=count, column=settings.column,
        splits={name: number for name, number in splits.items() if name},
    )  # fmt: skip


def _write(rows: Iterator[Row], out: Path) -> dict[str, int]:
    """Write rows in groups of fixed size; returns how many each split has ('' for rows without one)."""
    splits: dict[str, int] = {}
    group: list[tuple[Any, ...]] = []
    with EvenWriter(out, SCHEMA) as writer:
        for number, row in enumerate(rows, start=1):
            split = SPLIT_NAMES.get(row.split.lower(), row.split) if row.split else row.split
            group.append((number, row.smiles, split, row.problem))
            splits[split or ""] = splits.get(split or "", 0) + 1
            if len(group) == ROW_GROUP:
                writer.write(_table(group))
                group = []
        if group:
            writer.write(_table(group))
    return splits


def _table(group: list[tuple[Any, ...]]) -> pyarrow.Table:
    return pyarrow.table([list(column) for column in zip(*group, strict=True)], schema=SCHEMA)


def _local(source: str, downloads: Path, checksum: str | None) -> Path:
    """The file itself, or the copy of what a URL names."""
    if not source.startswith(("http://", "https://")):
        return Path(source)
    parts = urllib.parse.unquote(urllib.parse.urlsplit(source).path).strip("/").split("/")
    name = next((part for part in reversed(parts) if kind_of(part)), None)  # …/molecules.csv/content, too
    if name is None:
        raise DataError(
            f"{source}: no part of this address ends in {', '.join(SUFFIXES)}, with or without .gz. "
            "Download it by hand and set data.source to the file."
        )
    path = downloads / f"{fingerprint(source)[:8]}-{name}"  # two addresses may end in the same name
    if not path.exists() or (checksum and sha256(path) != checksum):
        try:
            with urllib.request.urlopen(source, timeout=60) as answer, replacing(path) as temporary:  # noqa: S310
                with open(temporary, "wb") as file:
                    shutil.copyfileobj(answer, file)
                if answer.length:
                    raise OSError(f"the connection broke off {answer.length} bytes before the end")
        except (http.client.HTTPException, OSError) as err:
            raise DataError(
                f"{source}: cannot be downloaded ({err}). Download it by hand and set data.source to the file."
            ) from err
    return path


def moses_wheel(downloads: Path) -> Path:
    """The wheel that carries the MOSES data set, downloaded where `downloads` lacks it; its code is not used."""
    wheel = downloads / "molsets-0.3.1-py3-none-any.whl"
    if not wheel.exists() or sha256(wheel) != MOSES_SHA256:
        downloads.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(downloads),
            MOSES_WHEEL,
        ]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode or not wheel.exists():
            raise DataError(
                f"MOSES comes in the wheel {MOSES_WHEEL}, which pip could not download: {run.stderr.strip()[-300:]}\n"
                f"Put the wheel into {downloads}/ by hand."
            )
    if (checksum := sha256(wheel)) != MOSES_SHA256:
        raise DataError(f"{wheel}: its SHA-256 is {checksum}, not {MOSES_SHA256}. Delete it and fetch again.")
    return wheel


def _moses_rows(wheel: Path) -> Iterator[Row]:
    with zipfile.ZipFile(wheel) as archive:
        for split in MOSES_SPLITS:
            path = Path(archive.extract(f"moses/dataset/data/{split}.csv.gz", wheel.parent))
            for row in read_rows(path, "SMILES"):
                yield row._replace(split=split)
