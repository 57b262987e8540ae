"""Reference and training sets, computed once and kept in a cache folder."""

from __future__ import annotations

import io
import logging
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from molvae.data.moses import MOSES, MOSES_FOLDER, MOSES_SHA256, download_moses_wheel
from molvae.data.readers import find_smiles_column, read_rows
from molvae.data.unreadable import require_a_molecule
from molvae.errors import DataError
from molvae.metrics import fcd
from molvae.metrics.reference_sets import (
    N_KEPT_SMILES,
    N_NEIGHBOUR_CANDIDATES,
    PROPERTY_COLUMNS,
    ReferenceSet,
    TrainingSet,
    build_reference_set,
    build_training_set,
    describe_source,
    load_reference_sets,
    load_training_set,
    save_sets,
)
from molvae.runtime.files import compute_json_hash, compute_sha256
from molvae.runtime.provenance import compute_code_digest, get_versions
from molvae.runtime.workers import Workers

log = logging.getLogger(__name__)
MOSES_ROWS_TO_REWRITE = Path(__file__).with_name("moses_rows_to_rewrite.txt")
MOSES_SETS = {"Test": "test", "TestSF": "test_scaffolds"}  # name of the reference -> split


def get_cache_folder() -> Path:
    """Find the folder for sets that no workflow asked for: $MOLVAE_CACHE, else ~/.cache/molvae."""
    chosen = os.environ.get("MOLVAE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "molvae"
    return Path(chosen).expanduser()


def compute_references(
    source: str, *, column: str | None = None, downloads: Path | None = None, workers: int | Workers = 1
) -> dict[str, ReferenceSet]:
    """Compute the statistics of reference molecules.

    Args:
        source: "moses" (its test and scaffold test set, with the statistics that its authors published), or a file.
        column: column of the SMILES; None: the first that is called so.
        downloads: folder of the MOSES wheel; None: in the cache.
        workers: processes that describe the molecules.

    Returns:
        the sets by name, "Test" first.

    Raises:
        DataError: the file cannot be read or holds fewer than two molecules.
    """
    if source == MOSES:
        wheel = download_moses_wheel(downloads or get_cache_folder() / "downloads")
        return {name: _load_published_set(wheel, split) for name, split in MOSES_SETS.items()}
    smiles = _read_smiles(Path(source), column)
    return {"Test": build_reference_set(smiles, describe_source(Path(source).name, smiles), workers)}


def load_cached_references(
    source: str, cache: Path, *, column: str | None = None, workers: int | Workers = 1
) -> dict[str, ReferenceSet]:
    """Load the references of a source from the cache, or compute them and write them into it.

    Args:
        source: as in `compute_references`.
        cache: folder.
        column: column of the SMILES; None: the first that is called so.
        workers: processes that describe the molecules.
    """
    path = _make_cache_path(cache, "reference", source, column)
    if not path.exists():
        log.info("%s: computing its statistics, once, into %s", source, path)
        save_sets(path, compute_references(source, column=column, downloads=cache / "downloads", workers=workers))
    return load_reference_sets(path)


def load_cached_training_set(
    source: str, cache: Path, *, column: str | None = None, with_skeletons: bool = False, workers: int | Workers = 1
) -> TrainingSet:
    """Load the index of training molecules of a source from the cache, or compute it and write it into it.

    Args:
        source: "moses" or a file.
        cache: folder.
        column: column of the SMILES; None: the first that is called so.
        with_skeletons: whether to index InChIKeys, too.
        workers: processes that describe the molecules.
    """
    path = _make_cache_path(cache, "skeletons" if with_skeletons else "training", source, column)
    if not path.exists():
        log.info("%s: indexing its molecules, once, into %s", source, path)
        rows_to_rewrite = None
        if source == MOSES:
            smiles = read_moses_split(download_moses_wheel(cache / "downloads"), "train")
            description = f"MOSES train, {len(smiles)} molecules"
            rows_to_rewrite = load_moses_rows_to_rewrite()
        else:
            smiles = _read_smiles(Path(source), column)
            description = describe_source(Path(source).name, smiles)
        training = build_training_set(
            smiles, description, with_skeletons=with_skeletons, rows_to_rewrite=rows_to_rewrite, workers=workers
        )
        save_sets(path, {"train": training})
    return replace(load_training_set(path), cache=path.with_suffix(""))


def _make_cache_path(cache: Path, kind: str, source: str, column: str | None) -> Path:
    """Make a file name that changes with the content of the source, the code of this package and RDKit."""
    if source == MOSES:
        checksum = MOSES_SHA256
    elif Path(source).is_file():
        checksum = compute_sha256(Path(source))
    else:
        raise DataError(f"{source}: no such file. Give 'moses' or a file of SMILES.")
    # the index of training molecules takes minutes: only what computes it counts
    code = compute_code_digest("metrics.reference_cache" if kind == "reference" else "metrics.training_index")
    parts = [checksum, column, code, N_NEIGHBOUR_CANDIDATES, N_KEPT_SMILES, get_versions()["rdkit"]]
    return cache / f"{kind}-{Path(source).name.split('.')[0]}-{compute_json_hash(parts)[:16]}.safetensors"


def _read_smiles(path: Path, column: str | None) -> list[str]:
    """Read the SMILES of a file, blank and damaged rows left out.

    Raises:
        DataError: it cannot be read or has fewer than two.
    """
    rows = list(read_rows(path, find_smiles_column(path, column)))
    smiles = [row.usable_smiles for row in rows if row.usable_smiles]
    if len(smiles) < 2:
        raise DataError(f"{path}: {len(smiles)} molecules are no set to compare with. Give two or more.")
    require_a_molecule(path, rows)
    return smiles


def load_moses_rows_to_rewrite() -> list[int]:
    """Load the rows of the MOSES training set whose SMILES are not canonical with the releases of RDKit tried.

    `benchmarks/moses_canonical.py` writes them. Of the other 1.58 million the text is taken for the canonical SMILES.
    """
    return [int(line) for line in MOSES_ROWS_TO_REWRITE.read_text().split()]


def _load_published_set(wheel: Path, split: str) -> ReferenceSet:
    """Read the `*_stats.npz` of the MOSES wheel. They are pickles: it is read only after its checksum was tested."""
    with zipfile.ZipFile(wheel) as archive:
        content = io.BytesIO(archive.read(f"{MOSES_FOLDER}/{split}_stats.npz"))
    stats = np.load(content, allow_pickle=True)["stats"].item()
    fingerprints = np.packbits(stats["SNN"]["fps"], axis=1)
    n = len(fingerprints)
    chemnet = fcd.Statistics(stats["FCD"]["mu"].astype(float), stats["FCD"]["sigma"].astype(float), n)
    return ReferenceSet(
        f"MOSES {split}, {n} molecules", n, chemnet, fingerprints, stats["Frag"]["frag"], stats["Scaf"]["scaf"],
        {name: np.array(stats[name]["values"], dtype=float) for name in PROPERTY_COLUMNS},
    )  # fmt: skip


def read_moses_split(wheel: Path, split: str) -> list[str]:
    """Read the SMILES of a split of the MOSES wheel."""
    with zipfile.ZipFile(wheel) as archive, archive.open(f"{MOSES_FOLDER}/{split}.csv.gz") as file:
        smiles: list[str] = pd.read_csv(file, compression="gzip")["SMILES"].tolist()
    return smiles
