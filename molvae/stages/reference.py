"""Stage `reference`: what samples are held against, computed once: reference molecules, training molecules."""

from __future__ import annotations

import io
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from molvae.data.readers import read_rows, smiles_column
from molvae.errors import DataError
from molvae.metrics import fcd
from molvae.metrics.reference_sets import (
    DRAW,
    NEIGHBOURS,
    PROPERTIES,
    Reference,
    Training,
    read_references,
    read_training,
    reference_of,
    told,
    training_of,
    write,
)
from molvae.runtime.files import fingerprint, sha256
from molvae.runtime.provenance import code_digest, versions
from molvae.runtime.workers import Workers
from molvae.stages.fetch import MOSES_SHA256, moses_wheel

log = logging.getLogger(__name__)
MOSES = "moses"
MOSES_SETS = {"Test": "test", "TestSF": "test_scaffolds"}


def cache_folder() -> Path:
    """Where references lie that no workflow asked for: $MOLVAE_CACHE, else ~/.cache/molvae."""
    chosen = os.environ.get("MOLVAE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "molvae"
    return Path(chosen).expanduser()


def reference(
    source: str, out: Path, *, column: str | None = None, downloads: Path | None = None, workers: int | Workers = 1
) -> None:
    """Write the statistics of reference molecules into one file.

    Args:
        source: "moses" (its test and scaffold test set, with the statistics that its authors published), or a file.
        downloads: where the MOSES wheel lies or is put.
    Raises:
        DataError: the file cannot be read or holds fewer than two molecules.
    """
    if source == MOSES:
        wheel = moses_wheel(downloads or cache_folder() / "downloads")
        write(out, {name: _published(wheel, split) for name, split in MOSES_SETS.items()})
        return
    smiles = _smiles(Path(source), column)
    write(out, {"Test": reference_of(smiles, told(Path(source).name, smiles), workers)})


def cached_references(
    source: str, cache: Path, *, column: str | None = None, workers: int | Workers = 1
) -> dict[str, Reference]:
    """The references of a source, from the cache or written into it."""
    path = _place(cache, "reference", source, column)
    if not path.exists():
        log.info("%s: computing its statistics, once, into %s", source, path)
        reference(source, path, column=column, downloads=cache / "downloads", workers=workers)
    return read_references(path)


def cached_training(source: str, cache: Path, *, column: str | None = None, workers: int | Workers = 1) -> Training:
    """The index of the training molecules of a source ("moses" or a file), from the cache or written into it."""
    path = _place(cache, "training", source, column)
    if not path.exists():
        log.info("%s: indexing its molecules, once, into %s; minutes for a million", source, path)
        if source == MOSES:
            smiles = _of_wheel(moses_wheel(cache / "downloads"), "train")
            about = f"MOSES train, {len(smiles)} molecules"
        else:
            smiles = _smiles(Path(source), column)
            about = told(Path(source).name, smiles)
        write(path, {"train": training_of(smiles, about, workers=workers)})
    return read_training(path)


def _place(cache: Path, kind: str, source: str, column: str | None) -> Path:
    """A name that changes with the content of the source, with our code and with RDKit."""
    if source == MOSES:
        checksum = MOSES_SHA256
    elif Path(source).is_file():
        checksum = sha256(Path(source))
    else:
        raise DataError(f"{source}: no such file. Give 'moses' or a file of SMILES.")
    # the index of training molecules takes minutes
    code = code_digest("metrics.training_index" if kind == "training" else "stages.reference")
    digest = fingerprint([checksum, column, code, NEIGHBOURS, DRAW, versions()["rdkit"]])[:16]
    return cache / f"{kind}-{Path(source).name.split('.')[0]}-{digest}.safetensors"


def _smiles(path: Path, column: str | None) -> list[str]:
    """The SMILES of a file, those of the column that is called so unless one is named; blank and damaged rows left out.

    Raises:
        DataError: it cannot be read or has fewer than two.
    """
    found = [row.readable for row in read_rows(path, smiles_column(path, column)) if row.readable]
    if len(found) < 2:
        raise DataError(f"{path}: {len(found)} molecules are no set to compare with. Give two or more.")
    return found


def _published(wheel: Path, split: str) -> Reference:
    """What `*_stats.npz` of the wheel hold. They are pickles: the wheel is read after its checksum was tested only."""
    with zipfile.ZipFile(wheel) as archive:
        content = io.BytesIO(archive.read(f"moses/dataset/data/{split}_stats.npz"))
    found = np.load(content, allow_pickle=True)["stats"].item()
    fingerprints = np.packbits(found["SNN"]["fps"], axis=1)
    n = len(fingerprints)
    chemnet = fcd.Statistics(found["FCD"]["mu"].astype(float), found["FCD"]["sigma"].astype(float), n)
    return Reference(
        f"MOSES {split}, {n} molecules", n, chemnet, fingerprints, found["Frag"]["frag"], found["Scaf"]["scaf"],
        {name: np.array(found[name]["values"], dtype=float) for name in PROPERTIES},
    )  # fmt: skip


def _of_wheel(wheel: Path, split: str) -> list[str]:
    with zipfile.ZipFile(wheel) as archive, archive.open(f"moses/dataset/data/{split}.csv.gz") as file:
        return pd.read_csv(file, compression="gzip")["SMILES"].tolist()
