"""What samples are compared with: the statistics of reference molecules, and the training molecules as an index.

Both are computed once and lie in safetensors files: what takes minutes for MOSES is read in a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from molvae.errors import DataError
from molvae.metrics import fcd
from molvae.metrics.fcd import Statistics
from molvae.metrics.molecule_table import describe_smiles
from molvae.metrics.training_index import IndexedMolecules, index_molecules, reject_molecule
from molvae.runtime.files import atomic_write, compute_json_hash
from molvae.runtime.provenance import compute_code_digest, get_versions
from molvae.runtime.seeds import derive_seed
from molvae.runtime.workers import Workers, map_in_order

PROPERTY_COLUMNS = {"logP": "logp", "SA": "sa", "QED": "qed", "weight": "mw"}  # the name in MOSES: the descriptor
N_NEIGHBOUR_CANDIDATES = 100_000  # training molecules among which samples look for their nearest
N_KEPT_SMILES = 30_000  # training molecules kept as SMILES: the training-set reference, and GuacaMol's comparison
TASK_ROWS = 2000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceSet:
    """Statistics of a set of molecules.

    Attributes:
        description: what it is, for people.
        n: molecules.
        chemnet: mean and covariance of their ChemNet activations.
        fingerprints: (n, 128) uint8, packed Morgan fingerprints.
        fragments: BRICS fragment -> how often it occurs.
        scaffolds: Murcko scaffold -> how many molecules have it.
        properties: name of `PROPERTY_COLUMNS` -> (n,) values.
    """

    description: str
    n: int
    chemnet: Statistics
    fingerprints: np.ndarray
    fragments: Mapping[str, int]
    scaffolds: Mapping[str, int]
    properties: Mapping[str, np.ndarray]

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Convert all of it to arrays, for a file."""
        return {
            "mu": self.chemnet.mu, "sigma": self.chemnet.sigma, "fingerprints": self.fingerprints,
            **_to_arrays("fragments", self.fragments), **_to_arrays("scaffolds", self.scaffolds), **self.properties,
        }  # fmt: skip

    @classmethod
    def from_tensors(cls, description: str, tensors: Mapping[str, np.ndarray]) -> ReferenceSet:
        """Undo `to_tensors`."""
        n = len(tensors["fingerprints"])
        return cls(
            description, n, Statistics(tensors["mu"], tensors["sigma"], n), tensors["fingerprints"],
            _to_counts("fragments", tensors), _to_counts("scaffolds", tensors),
            {name: tensors[name] for name in PROPERTY_COLUMNS},
        )  # fmt: skip


@dataclass(frozen=True, eq=False)  # known by identity: what is computed of one is kept
class TrainingSet:
    """The molecules that a generator was trained on.

    Attributes:
        description: what they are, for people.
        n: molecules.
        given: sorted uint64 hashes of each molecule's SMILES as it was given.
        canonical: the same of its canonical SMILES.
        without_stereo: the same without stereo marks.
        skeletons: the same of the first block of its InChIKey (which tautomers share); None: not computed.
        fingerprints: (m, 128) uint8 of a random part of them.
        smiles: canonical SMILES of another random part, which GuacaMol compares with.
        cache: where what is computed of them is kept, the beginning of a path; None: nowhere.
    """

    description: str
    n: int
    given: np.ndarray
    canonical: np.ndarray
    without_stereo: np.ndarray
    skeletons: np.ndarray | None
    fingerprints: np.ndarray
    smiles: tuple[str, ...]
    cache: Path | None = None

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Convert all of it to arrays, for a file."""
        names = ("given", "canonical", "without_stereo", "skeletons", "fingerprints")
        arrays = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {**arrays, "smiles": _pack_lines(self.smiles)}

    @classmethod
    def from_tensors(cls, description: str, tensors: Mapping[str, np.ndarray]) -> TrainingSet:
        """Undo `to_tensors`."""
        return cls(
            description, len(tensors["given"]), tensors["given"], tensors["canonical"], tensors["without_stereo"],
            tensors.get("skeletons"), tensors["fingerprints"], tuple(_unpack_lines(tensors["smiles"])),
        )  # fmt: skip


def describe_source(name: str, smiles: Sequence[str]) -> str:
    """Describe molecules for people and for `compare`: their name and number, and a digest, which no others share."""
    digest = hashlib.sha256("\n".join(smiles).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name}, {len(smiles)} molecules (SHA-256 {digest})"


def build_reference_set(smiles: Sequence[str], description: str, workers: int | Workers = 1) -> ReferenceSet:
    """Compute the statistics of molecules; what is no molecule is left out and counted in the description.

    Raises:
        DataError: there are fewer than two molecules.
    """
    table = describe_smiles(smiles, workers=workers)
    valid = table[table["is_valid"]]
    if len(valid) < len(table):
        description += f", {len(table) - len(valid)} of them unreadable and left out"
    return ReferenceSet(
        description, len(valid), fcd.compute_statistics(valid["canonical"].tolist()),
        stack_fingerprints(valid["fingerprint"]),
        Counter(part for text in valid["fragments"] for part in text.split(".")),
        Counter(scaffold for scaffold in valid["scaffold"] if scaffold),
        {name: valid[column].to_numpy(float) for name, column in PROPERTY_COLUMNS.items()},
    )  # fmt: skip


def build_training_set(
    smiles: Sequence[str],
    description: str,
    *,
    with_skeletons: bool = False,
    rows_to_rewrite: Collection[int] | None = None,
    workers: int | Workers = 1,
) -> TrainingSet:
    """Index training molecules. Those that RDKit cannot read count under their own text only.

    Args:
        smiles: of the molecules.
        description: what they are, for people.
        with_skeletons: whether to index the InChIKeys, too, which take more than half of the time.
        rows_to_rewrite: rows whose SMILES may not be canonical; those of the others are, without stereo. None: all.
        workers: processes.

    Raises:
        DataError: there are fewer than two others.
    """
    kept = np.random.RandomState(42).permutation(len(smiles))[:N_KEPT_SMILES]  # as GuacaMol: the first n are its n
    random = np.random.default_rng(derive_seed(0, "nearest training molecules"))
    candidates = set(random.choice(len(smiles), min(N_NEIGHBOUR_CANDIDATES, len(smiles)), replace=False).tolist())
    is_all = with_skeletons or rows_to_rewrite is None
    rows = range(len(smiles)) if is_all else sorted(candidates.union(rows_to_rewrite or ()))
    tasks = [
        ([(smiles[row], row in candidates) for row in rows[start : start + TASK_ROWS]], with_skeletons)
        for start in range(0, len(rows), TASK_ROWS)
    ]
    log.info("indexing %d training molecules", len(smiles))
    index = IndexedMolecules([], [], [], [])
    for task_index in map_in_order(index_molecules, tasks, workers, reject_molecule):
        index.canonical.extend(task_index.canonical)
        index.without_stereo.extend(task_index.without_stereo)
        index.skeletons.extend(task_index.skeletons)
        index.fingerprints.extend(task_index.fingerprints)
    canonical, without_stereo = list(smiles), list(smiles)
    for row, *texts in zip(rows, index.canonical, index.without_stereo, strict=True):
        canonical[row], without_stereo[row] = texts
    if len(set(canonical) - {""}) < 2:
        raise DataError(
            f"{description}: fewer than two of them are molecules that RDKit reads. Is it the right column?"
        )
    return TrainingSet(
        description, len(smiles), hash_texts(smiles), hash_texts(canonical), hash_texts(without_stereo),
        hash_texts(index.skeletons) if with_skeletons else None, stack_fingerprints(index.fingerprints),
        tuple(canonical[row] for row in kept if canonical[row]),
    )  # fmt: skip


def load_or_compute(
    training: TrainingSet, name: str, inputs: Sequence[int | str], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Load arrays that metrics need of training molecules from their cache, or compute them and write them into it.

    Args:
        training: the molecules.
        name: of the arrays.
        inputs: what they depend on beside the molecules, the code and the versions.
        compute: makes them.

    Raises:
        DataError: the file in the cache is damaged.
    """
    if training.cache is None:
        return compute()
    key = compute_json_hash([compute_code_digest("metrics.suite"), get_versions(), *inputs])[:16]
    path = training.cache.with_name(f"{training.cache.name}-{name}-{key}.safetensors")
    if not path.exists():
        with atomic_write(path) as temporary:
            save_file({key: np.ascontiguousarray(array) for key, array in compute().items()}, temporary)
    try:
        return load_file(path)
    except SafetensorError as err:
        raise DataError(f"{path}: damaged ({err}). Delete it: the next call writes it again.") from err


def stack_fingerprints(fingerprints: Iterable[bytes]) -> np.ndarray:
    """Stack packed fingerprints into one array, (n, 128) uint8."""
    return np.frombuffer(b"".join(fingerprints), dtype=np.uint8).reshape(-1, 128)


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """Compute sorted 64-bit hashes of texts: of a million, two are taken for one with a probability of 3e-8."""
    return np.sort(_hash(texts))


def is_in(texts: Sequence[str], hashes: np.ndarray) -> np.ndarray:
    """Tell which of the texts have their hash among sorted hashes, (n,) bool."""
    text_hashes = _hash(texts)
    if not len(hashes):
        return np.zeros(len(text_hashes), dtype=bool)
    places = np.searchsorted(hashes, text_hashes)
    return (places < len(hashes)) & (hashes[np.minimum(places, len(hashes) - 1)] == text_hashes)


def _hash(texts: Iterable[str]) -> np.ndarray:
    blake = partial(hashlib.blake2b, digest_size=8)
    return np.frombuffer(b"".join(blake(text.encode()).digest() for text in texts), dtype=np.uint64)


def save_sets(path: Path, sets: Mapping[str, ReferenceSet | TrainingSet]) -> None:
    """Write references or training sets into one file, under their names."""
    tensors = {f"{name}/{key}": array for name, part in sets.items() for key, array in part.to_tensors().items()}
    descriptions = {name: part.description for name, part in sets.items()}
    with atomic_write(path) as temporary:
        content = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        save_file(content, temporary, {"descriptions": json.dumps(descriptions)})


def load_reference_sets(path: Path) -> dict[str, ReferenceSet]:
    """Load the references of a file, by name.

    Raises:
        DataError: no such file, or none that `molvae reference` wrote.
    """
    return _load_sets(path, ReferenceSet)


def load_training_set(path: Path) -> TrainingSet:
    """Load the training set of a file.

    Raises:
        DataError: as in `load_reference_sets`.
    """
    sets = _load_sets(path, TrainingSet)
    if "train" not in sets:
        raise DataError(f"{path}: no index of training molecules. Delete it and write it again.")
    return sets["train"]


Kind = TypeVar("Kind", ReferenceSet, TrainingSet)


def _load_sets(path: Path, kind: type[Kind]) -> dict[str, Kind]:
    parts: dict[str, dict[str, np.ndarray]] = {}
    try:
        with safe_open(path, "numpy") as file:
            descriptions = json.loads(file.metadata()["descriptions"])
            for name in file.keys():  # noqa: SIM118 - no mapping
                part, key = name.rsplit("/", 1)
                parts.setdefault(part, {})[key] = file.get_tensor(name)
        return {name: kind.from_tensors(text, parts[name]) for name, text in descriptions.items()}
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file. `molvae reference` writes it.") from err
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, OSError) as err:
        raise DataError(f"{path}: not a file of `molvae reference` ({err}). Delete it and write it again.") from err


def _to_arrays(name: str, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    return {name: _pack_lines(counts), f"{name}_counts": np.array(list(counts.values()), dtype=np.int64)}


def _to_counts(name: str, tensors: Mapping[str, np.ndarray]) -> Counter[str]:
    return Counter(dict(zip(_unpack_lines(tensors[name]), tensors[f"{name}_counts"].tolist(), strict=True)))


def _pack_lines(lines: Iterable[str]) -> np.ndarray:
    return np.frombuffer("".join(f"{line}\n" for line in lines).encode(), dtype=np.uint8)


def _unpack_lines(text: np.ndarray) -> list[str]:
    return text.tobytes().decode().split("\n")[:-1]
