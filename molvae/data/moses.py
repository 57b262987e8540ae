"""The MOSES data set, out of the wheel that carries it. The code in the wheel is not used."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from molvae.data.readers import Row, read_rows
from molvae.errors import DataError
from molvae.runtime.files import compute_sha256

MOSES = "moses"  # what settings call it
MOSES_WHEEL = "molsets==0.3.1"  # byte-identical to the files of the MOSES repository
MOSES_SHA256 = "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34"
MOSES_SPLITS = ("train", "test", "test_scaffolds")
MOSES_FOLDER = "moses/dataset/data"  # of the data in the wheel


def download_moses_wheel(downloads: Path) -> Path:
    """Download the wheel that carries the MOSES data set, unless it lies in `downloads` already.

    Returns:
        its path.

    Raises:
        DataError: pip cannot download it, or its checksum is another one.
    """
    wheel = downloads / "molsets-0.3.1-py3-none-any.whl"
    if not wheel.exists() or compute_sha256(wheel) != MOSES_SHA256:
        downloads.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(downloads), MOSES_WHEEL]
        run = subprocess.run(pip, capture_output=True, text=True)
        if run.returncode or not wheel.exists():
            raise DataError(
                f"MOSES comes in the wheel {MOSES_WHEEL}, which pip could not download: {run.stderr.strip()[-300:]}\n"
                f"Put the wheel into {downloads}/ by hand."
            )
    if (checksum := compute_sha256(wheel)) != MOSES_SHA256:
        raise DataError(f"{wheel}: its SHA-256 is {checksum}, not {MOSES_SHA256}. Delete it and fetch again.")
    return wheel


def iter_moses_rows(wheel: Path) -> Iterator[Row]:
    """Read the molecules of all splits, each with its split."""
    with zipfile.ZipFile(wheel) as archive:
        for split in MOSES_SPLITS:
            path = Path(archive.extract(f"{MOSES_FOLDER}/{split}.csv.gz", wheel.parent))
            for row in read_rows(path, "SMILES"):
                yield row._replace(split=split)
