"""What samples are held against: the statistics of reference molecules, and the training molecules as an index.

Both are computed once and lie in safetensors files: what takes minutes for MOSES is read in a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from molvae.errors import DataError
from molvae.metrics import fcd
from molvae.metrics.fcd import Statistics
from molvae.metrics.molecule_table import describe_all
from molvae.metrics.training_index import describe_training
from molvae.runtime.files import replacing
from molvae.runtime.seeds import derive
from molvae.runtime.workers import Workers, in_order

PROPERTIES = {"logP": "logp", "SA": "sa", "QED": "qed", "weight": "mw"}  # the name in MOSES: the descriptor
NEIGHBOURS = 100_000  # training molecules among which samples look for their nearest
DRAW = 30_000  # training molecules kept as SMILES: the ceiling, and GuacaMol's comparison
TASK_ROWS = 2000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """Statistics of a set of molecules.

    Attributes:
        about: what it is, for people.
        n: molecules.
        chemnet: mean and covariance of their ChemNet activations.
        fingerprints: (n, 128) uint8, packed Morgan fingerprints.
        fragments: BRICS fragment -> how often it occurs.
        scaffolds: Murcko scaffold -> how many molecules have it.
        properties: name of `PROPERTIES` -> (n,) values.
    """

    about: str
    n: int
    chemnet: Statistics
    fingerprints: np.ndarray
    fragments: Mapping[str, int]
    scaffolds: Mapping[str, int]
    properties: Mapping[str, np.ndarray]

    def tensors(self) -> dict[str, np.ndarray]:
        """All of it as arrays, for a file."""
        return {
            "mu": self.chemnet.mu, "sigma": self.chemnet.sigma, "fingerprints": self.fingerprints,
            **_as_arrays("fragments", self.fragments), **_as_arrays("scaffolds", self.scaffolds), **self.properties,
        }  # fmt: skip

    @classmethod
    def of_tensors(cls, about: str, tensors: Mapping[str, np.ndarray]) -> Reference:
        """Undo `tensors`."""
        n = len(tensors["fingerprints"])
        return cls(
            about, n, Statistics(tensors["mu"], tensors["sigma"], n), tensors["fingerprints"],
            _as_counts("fragments", tensors), _as_counts("scaffolds", tensors),
            {name: tensors[name] for name in PROPERTIES},
        )  # fmt: skip


@dataclass(frozen=True, eq=False)  # known by identity: what is computed of one is kept
class Training:
    """The molecules that a generator was trained on.

    Attributes:
        about: what they are, for people.
        n: molecules.
        given, canonical, without_stereo, skeletons: sorted uint64 hashes of each molecule's SMILES as it was given, its
            canonical SMILES, that without stereo marks, and the first block of its InChIKey (which tautomers share).
        fingerprints: (m, 128) uint8 of a random part of them.
        draw: canonical SMILES of another random part, which GuacaMol compares with.
    """

    about: str
    n: int
    given: np.ndarray
    canonical: np.ndarray
    without_stereo: np.ndarray
    skeletons: np.ndarray
    fingerprints: np.ndarray
    draw: tuple[str, ...]

    def tensors(self) -> dict[str, np.ndarray]:
        """All of it as arrays, for a file."""
        names = ("given", "canonical", "without_stereo", "skeletons", "fingerprints")
        return {**{name: getattr(self, name) for name in names}, "draw": _text(self.draw)}

    @classmethod
    def of_tensors(cls, about: str, tensors: Mapping[str, np.ndarray]) -> Training:
        """Undo `tensors`."""
        rest = dict(tensors)
        draw = tuple(_lines(rest.pop("draw")))
        return cls(about, len(rest["given"]), draw=draw, **rest)


def told(name: str, smiles: Sequence[str]) -> str:
    """What molecules are, for people and for `compare`: their name and number, and a digest, which no others share."""
    digest = hashlib.sha256("\n".join(smiles).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name}, {len(smiles)} molecules (SHA-256 {digest})"


def reference_of(smiles: Sequence[str], about: str, workers: int | Workers = 1) -> Reference:
    """The statistics of molecules; what is no molecule is left out and counted in `about`.

    Raises:
        DataError: there are fewer than two molecules.
    """
    table = describe_all(smiles, workers=workers)
    valid = table[table["is_valid"]]
    if len(valid) < len(table):
        about += f", {len(table) - len(valid)} of them unreadable and left out"
    return Reference(
        about, len(valid), fcd.statistics(valid["canonical"].tolist()),
        stacked(valid["fingerprint"]),
        Counter(part for text in valid["fragments"] for part in text.split(".")),
        Counter(scaffold for scaffold in valid["scaffold"] if scaffold),
        {name: valid[column].to_numpy(float) for name, column in PROPERTIES.items()},
    )  # fmt: skip


def training_of(smiles: Sequence[str], about: str, *, workers: int | Workers = 1) -> Training:
    """The index of training molecules. Those that RDKit cannot read count under their own text only.

    Raises:
        DataError: there are fewer than two others.
    """
    drawn = np.random.RandomState(42).permutation(len(smiles))[:DRAW]  # as GuacaMol draws: the first n are its n
    near = np.random.default_rng(derive(0, "nearest training molecules"))
    some = set(near.choice(len(smiles), min(NEIGHBOURS, len(smiles)), replace=False).tolist())
    tasks = [
        (smiles[start : start + TASK_ROWS], [start + row in some for row in range(min(TASK_ROWS, len(smiles) - start))])
        for start in range(0, len(smiles), TASK_ROWS)
    ]
    log.info("indexing %d training molecules", len(smiles))
    columns: list[list[Any]] = [[], [], [], []]
    for part in in_order(describe_training, tasks, workers):
        for column, values in zip(columns, part, strict=True):
            column += values
    canonical, flat, skeletons, fingerprints = columns
    if len(set(canonical) - {""}) < 2:
        raise DataError(f"{about}: fewer than two of them are molecules that RDKit reads. Is it the right column?")
    return Training(
        about, len(smiles), hashes(smiles), hashes(canonical), hashes(flat), hashes(skeletons),
        stacked(fingerprints),
        tuple(canonical[row] for row in drawn if canonical[row]),
    )  # fmt: skip


def stacked(fingerprints: Iterable[bytes]) -> np.ndarray:
    """Packed fingerprints as one array, (n, 128) uint8."""
    return np.frombuffer(b"".join(fingerprints), dtype=np.uint8).reshape(-1, 128)


def hashes(texts: Iterable[str]) -> np.ndarray:
    """Sorted 64-bit hashes of texts: of a million, two are taken for one with a probability of 3e-8."""
    return np.sort(_hashed(texts))


def known(texts: Sequence[str], to: np.ndarray) -> np.ndarray:
    """(n,) bool: which of the texts have their hash among sorted hashes."""
    own = _hashed(texts)
    if not len(to):
        return np.zeros(len(own), dtype=bool)
    places = np.searchsorted(to, own)
    return (places < len(to)) & (to[np.minimum(places, len(to) - 1)] == own)


def _hashed(texts: Iterable[str]) -> np.ndarray:
    blake = partial(hashlib.blake2b, digest_size=8)
    return np.frombuffer(b"".join(blake(text.encode()).digest() for text in texts), dtype=np.uint64)


def write(path: Path, parts: Mapping[str, Reference | Training]) -> None:
    """Write references or training sets into one file, under their names."""
    tensors = {f"{name}/{key}": array for name, part in parts.items() for key, array in part.tensors().items()}
    about = {name: part.about for name, part in parts.items()}
    with replacing(path) as temporary:
        save_file(
            {name: np.ascontiguousarray(a) for name, a in tensors.items()}, temporary, {"about": json.dumps(about)}
        )


def read_references(path: Path) -> dict[str, Reference]:
    """The references of a file, by name.

    Raises:
        DataError: no such file, or none that `molvae reference` wrote.
    """
    return _read(path, Reference)


def read_training(path: Path) -> Training:
    """The training set of a file.

    Raises:
        DataError: as in `read_references`.
    """
    found = _read(path, Training)
    if "train" not in found:
        raise DataError(f"{path}: no index of training molecules. Delete it and write it again.")
    return found["train"]


def _read(path: Path, kind: Any) -> Any:
    parts: dict[str, dict[str, np.ndarray]] = {}
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads(file.metadata()["about"])
            for name in file.keys():  # noqa: SIM118 - no mapping
                part, key = name.rsplit("/", 1)
                parts.setdefault(part, {})[key] = file.get_tensor(name)
        return {name: kind.of_tensors(text, parts[name]) for name, text in about.items()}
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file. `molvae reference` writes it.") from err
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, OSError) as err:
        raise DataError(f"{path}: not a file of `molvae reference` ({err}). Delete it and write it again.") from err


def _as_arrays(name: str, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    return {name: _text(counts), f"{name}_counts": np.array(list(counts.values()), dtype=np.int64)}


def _as_counts(name: str, tensors: Mapping[str, np.ndarray]) -> Counter[str]:
    return Counter(dict(zip(_lines(tensors[name]), tensors[f"{name}_counts"].tolist(), strict=True)))


def _text(lines: Iterable[str]) -> np.ndarray:
    return np.frombuffer("".join(f"{line}\n" for line in lines).encode(), dtype=np.uint8)


def _lines(text: np.ndarray) -> list[str]:
    return text.tobytes().decode().split("\n")[:-1]
